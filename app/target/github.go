package target

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"

	"allregions/app/notification"
)

// githubKind gets a repository_dispatch.
var githubKind = kind{
	outcomes: choices,
	secret:   bearerToken,
	path:     regexp.MustCompile(`^(/api/v3)?/repos/[^/]+/[^/]+/dispatches$`),
	example:  "https://api.github.com/repos/OWNER/REPO/dispatches",
	header:   map[string]string{"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"},
	reserved: []string{"Accept", "Authorization", "X-Github-Api-Version"},
	body:     githubMessage,
}

// githubMessage puts the status into a field of its own: GitHub allows client_payload ten
// keys, and the status alone has more.
func githubMessage(e Event) ([]byte, error) {
	type payload struct {
		Notification notification.Status `json:"notification"`
		ID           string              `json:"id"`
	}
	return json.Marshal(struct {
		EventType     string  `json:"event_type"`
		ClientPayload payload `json:"client_payload"`
	}{e.Type, payload{e.Status, e.ID}})
}

// bearerToken takes a token that goes into a header.
func bearerToken(s *settings, secret string) error {
	if strings.ContainsFunc(secret, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return errors.New("is not a token: printable characters without spaces")
	}
	s.header.Set("Authorization", "Bearer "+secret)
	return nil
}
