package conformance

import "testing"

// stride is larger where everything is ten times slower.
var stride = 1

// All cases, on the fakes.
func TestFakes(t *testing.T) {
	if cases := Run(t, nil, stride); cases < 5000/stride {
		t.Errorf("only %d cases", cases)
	}
}
