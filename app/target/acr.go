package target

import (
	"bytes"
	"encoding/json"
	"errors"

	"allregions/app/replication"
)

// acrKind gets what ACR itself sent, byte by byte but for the host. By default it gets
// only pushes with a tag: some receivers of ACR's webhooks deploy whatever comes, even an
// image in quarantine, and others refuse a push without a tag.
var acrKind = kind{
	outcomes: []replication.Status{replication.Replicated, replication.Recovered},
	filter:   `action == "push" && tag != ""`,
	original: true,
	// The name begins as that of ACR: Kargo accepts nothing else.
	header: map[string]string{"Content-Type": "application/json; charset=utf-8", "User-Agent": "AzureContainerRegistry/1.0"},
	body: func(e Event) ([]byte, error) {
		if len(e.Original) == 0 {
			return nil, errors.New("the webhook that ACR sent is not there to be sent on")
		}
		return withLoginServer(e.Original), nil
	},
}

// withLoginServer makes a regional host in a webhook the login server, which receivers
// compare with the images that they know. It also cuts a byte order mark, which is not
// JSON.
func withLoginServer(body []byte) []byte {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	var p struct{ Request struct{ Host string } }
	json.Unmarshal(body, &p) // what is no JSON, and what has no host, goes on as it is
	server := replication.LoginServer(p.Request.Host)
	if server == p.Request.Host {
		return body
	}
	return bytes.ReplaceAll(body, quoted(p.Request.Host), quoted(server))
}

func quoted(s string) []byte { return []byte(`"` + s + `"`) }
