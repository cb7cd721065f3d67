//go:build race

package conformance

func init() { stride = 10 }
