package target

import (
	"errors"

	"allregions/app/replication"
)

// acrKind gets what ACR itself sent, byte by byte. By default it gets only pushes
// with a tag: some receivers of ACR's webhooks deploy whatever comes, even an image
// in quarantine, and others refuse a push without a tag.
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
		return e.Original, nil
	},
}
