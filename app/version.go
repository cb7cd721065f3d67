package main

import (
	"cmp"
	"runtime/debug"
)

// linked is the version that the linker is told of, because the build of an image has no
// .git:
//
//	go build -ldflags "-X main.linked=v1.2.3" ./app
var linked string

// version is the release that this is, or else the commit that it is built from.
func version() string {
	info, _ := debug.ReadBuildInfo()
	return versionOf(linked, info)
}

func versionOf(linked string, info *debug.BuildInfo) string {
	if linked != "" || info == nil {
		return cmp.Or(linked, "unknown")
	}
	commit := "unknown"
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && s.Value != "" {
			commit = s.Value[:min(12, len(s.Value))]
		}
	}
	return commit
}

// userAgent is what the service calls itself where it sends something.
func userAgent() string { return "allregions/" + version() }
