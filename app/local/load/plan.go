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
	sequential  = "sequential"  // a sender sends those of a notification one after another
	interleaved = "interleaved" // one region of a hundred notifications, then the next region
	together    = "together"    // several senders send those of a notification at once, which then wait for one another
	duplicates  = "duplicates"  // as sequential, each webhook twice
	open        = "open"        // as sequential, without the last region
	retag       = "retag"       // as sequential, and each push moves the same tag
)

// Modes are the orders in which webhooks can be sent; the first one is the default.
var Modes = []string{sequential, interleaved, together, duplicates, open, retag}

// group is how many notifications are interleaved.
const group = 100

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
	if mode == open {
		regions = regions[:len(regions)-1]
	}
	size := 1
	if mode == interleaved {
		size = group
	}
	pushes := make([]acr.Push, n)
	for i := range pushes {
		pushes[i] = acr.NewPush("load/image-"+strconv.Itoa(i%1000), "v"+strconv.Itoa(i/1000))
		if mode == retag {
			pushes[i] = acr.NewPush("load/image", "latest")
		}
	}
	for some := range slices.Chunk(pushes, size) {
		var all train
		for _, region := range regions {
			for _, p := range some {
				all = append(all, webhook{p, region})
				if mode == duplicates {
					all = append(all, webhook{p, region})
				}
			}
		}
		if mode == together || mode == interleaved {
			for one := range slices.Chunk(all, 1) {
				trains = append(trains, one)
			}
		} else {
			trains = append(trains, all)
		}
	}
	return trains, nil
}
