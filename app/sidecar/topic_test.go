package sidecar

import (
	"strings"
	"testing"
)

// Service Bus refuses a MessageId of more than 128 characters.
func TestMessageID(t *testing.T) {
	long := strings.Repeat("a", 100) + "/timedOut/" + strings.Repeat("b", 40) + "/failed/1"
	for _, id := range []string{"n1/replicated", strings.Repeat("a", 128)} {
		if got := messageID(id); got != id {
			t.Errorf("%s: got %s", id, got)
		}
	}
	got := messageID(long)
	if len(got) > 128 || got != messageID(long) || got == messageID(long+"0") {
		t.Errorf("%s: got %s, and %s for another one", long, got, messageID(long+"0"))
	}
}
