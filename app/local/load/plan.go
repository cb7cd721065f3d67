package load

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"allregions/app/local/acr"
)

// The orders in which webhooks are sent.
const (
	sequential = "sequential" // a sender sends those of a notification one after another
	together   = "together"   // several senders send those of a notification at once, which then wait for one another
	retag      = "retag"      // as sequential, and each push moves the same tag
)

// Modes are the orders in which webhooks can be sent; the first one is the default.
var Modes = []string{sequential, together, retag}

type webhook struct {
	push   acr.Push
	region string
}

// train is what one sender sends, each webhook when the one before is answered.
type train []webhook

// plan is all webhooks in the order in which senders take them.
func plan(n int, regions []string, mode string) (trains []train, err error) {
	if !slices.Contains(Modes, mode) {
		return nil, fmt.Errorf("-mode: %q is none of %s", mode, strings.Join(Modes, ", "))
	}
	for i := range n {
		push := acr.NewPush("load/image-"+strconv.Itoa(i%1000), "v"+strconv.Itoa(i/1000))
		if mode == retag {
			push = acr.NewPush("load/image", "latest")
		}
		var all train
		for _, region := range regions {
			all = append(all, webhook{push, region})
		}
		if mode == together {
			trains = slices.AppendSeq(trains, slices.Chunk(all, 1))
		} else {
			trains = append(trains, all)
		}
	}
	return trains, nil
}
