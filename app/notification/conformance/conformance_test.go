package conformance

import (
	"testing"
)

// stride is larger where everything is ten times slower.
var stride = 1

// All cases, on the fakes.
func TestFakes(t *testing.T) {
	for part, name := range []string{"even", "odd"} { // at the same time
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if cases := runFrom(t, nil, part, 2*stride); cases < 3000/stride {
				t.Errorf("only %d cases", cases)
			}
		})
	}
}
