#!/usr/bin/env pwsh
# Before `azd deploy`: the build of the image has no .git, and is told the version.
# predeploy.sh is this file in sh, line by line.

$version = git describe --tags --always --dirty
azd env set VERSION "$version"
