package registry

import (
	"bytes"
	"encoding/json"
)

// keepUnknown returns the JSON of data, with the fields that old has and this version does
// not know, at any depth of objects; a list is a value. Known is old as this version
// decodes and encodes it.
func keepUnknown(old, known, data []byte) []byte {
	var was, knew, is map[string]json.RawMessage
	if !object(old, &was) || !object(data, &is) {
		return data
	}
	object(known, &knew)
	for name, value := range was {
		now, ok := is[name]
		switch _, ours := knew[name]; {
		case ok:
			is[name] = keepUnknown(value, knew[name], now)
		case !ours:
			is[name] = value
		}
	}
	kept, err := json.Marshal(is)
	if err != nil {
		return data
	}
	return kept
}

func object(data []byte, to *map[string]json.RawMessage) bool {
	return bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) && json.Unmarshal(data, to) == nil
}
