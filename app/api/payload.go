package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"allregions/app/notification"
	"allregions/app/replication"
)

// payload is the body of an ACR webhook, as the webhook schema reference has it
// and as registries send it: chart events have no request, deletes no tag and
// no size, quarantine no mediaType, and pings little but an action. Unknown
// fields are ignored.
type payload struct {
	ID        string          `json:"id"`
	Timestamp json.RawMessage `json:"timestamp"`
	Action    string          `json:"action"`
	Target    struct {
		MediaType  string `json:"mediaType"`
		Size       int64  `json:"size"`
		Digest     string `json:"digest"`
		Repository string `json:"repository"`
		Tag        string `json:"tag"`
	} `json:"target"`
	Request struct {
		Host string `json:"host"`
	} `json:"request"`
}

// actionPing is what `az acr webhook ping` sends.
const actionPing = "ping"

func (p payload) isPing() bool { return strings.EqualFold(p.Action, actionPing) }

// parsePayload reads a webhook's body. An error says what is wrong and where,
// in words for the person who reads the answer, and repeats nothing of the body
// but field names.
func parsePayload(body []byte) (payload, error) {
	var p payload
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")) // a byte order mark is not JSON, but senders exist
	if len(bytes.TrimSpace(body)) == 0 {
		return p, errors.New("the body is empty")
	}
	if trimmed := bytes.TrimSpace(body); trimmed[0] != '{' && json.Valid(trimmed) {
		return p, errors.New("the body is JSON but not an object")
	}
	if err := json.Unmarshal(body, &p); err != nil {
		wrongType, isType := errors.AsType[*json.UnmarshalTypeError](err)
		syntax, isSyntax := errors.AsType[*json.SyntaxError](err)
		switch {
		case isType:
			return p, fmt.Errorf("field %q is a %s", wrongType.Field, wrongType.Value)
		case isSyntax && syntax.Offset < int64(len(body)):
			return p, fmt.Errorf("the body is not JSON, at byte %d", syntax.Offset)
		}
		return p, errors.New("the body ends in the middle of the JSON")
	}
	if p.Action == "" {
		return p, errors.New(`field "action" is missing`)
	}
	return p, nil
}

// event is the domain's form of p, without a region. Its registry is the one that the body
// names. It refuses what no notification can be made of.
func (p payload) event() (replication.Event, error) {
	if p.ID == "" {
		return replication.Event{}, errors.New(`field "id" is missing`)
	}
	if !notification.ValidID(p.ID) {
		return replication.Event{}, errors.New(`field "id" must be 1 to 100 letters, digits, "_" and "-", and begin with a letter or digit`)
	}
	if host := p.Request.Host; host != "" && !validHost(host) {
		return replication.Event{}, errors.New(`field "request.host" must be a host name, such as contoso.azurecr.io`)
	}
	return replication.Event{
		ID: p.ID, Action: p.Action, Registry: replication.LoginServer(p.Request.Host),
		Repository: p.Target.Repository, Tag: p.Target.Tag, Digest: p.Target.Digest,
		MediaType: p.Target.MediaType, Size: p.Target.Size,
		Time: parseTime(p.Timestamp),
	}, nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// validHost tells whether s is a host name after RFC 1123, with a port or without:
// the host that a client asked for may have one. It is the authority of the source
// of CloudEvents.
func validHost(s string) bool {
	name, port, hasPort := strings.Cut(s, ":")
	if hasPort {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	return len(name) <= 253 && hostName.MatchString(name)
}

// parseTime reads RFC 3339 with any number of fractional digits; ACR sends 7
// or 9. What is no time is no reason to lose a push: it is the zero time.
func parseTime(raw json.RawMessage) time.Time {
	var t time.Time
	if json.Unmarshal(raw, &t) != nil {
		return time.Time{}
	}
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 { // its zone led out of what JSON can say
		return time.Time{}
	}
	return t
}
