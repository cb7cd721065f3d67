//go:build nextversion

package notification

import (
	"encoding/json"
	"strconv"

	"allregions/app/actor"
)

// A test builds this for a version that is newer than the others: it counts its own saves
// in fields that they do not know. They must not lose the count.
func init() {
	extend = func(stored actor.Fields) actor.Fields {
		n, _ := strconv.Atoi(string(stored["savesOfNext"]))
		return actor.Fields{"savesOfNext": json.RawMessage(strconv.Itoa(n + 1))}
	}
}
