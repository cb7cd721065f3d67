package target

import (
	"fmt"
	"regexp"
	"strings"

	"allregions/app/notification"
)

// githubKind gets a repository_dispatch.
var githubKind = kind{
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
	return encode(struct {
		EventType     string  `json:"event_type"`
		ClientPayload payload `json:"client_payload"`
	}{e.Type, payload{e.Status, e.ID}})
}

// bearerToken takes a token that goes into a header.
func bearerToken(s *settings, secret string) error {
	if len(secret) > maxSecret || strings.ContainsFunc(secret, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("is not a token: printable characters without spaces, at most %d", maxSecret)
	}
	s.header.Set("Authorization", "Bearer "+secret)
	return nil
}
