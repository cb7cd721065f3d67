#!/bin/sh
# Before `azd deploy`: the build of the image has no .git, and is told the version.
# predeploy.ps1 is this file in PowerShell, line by line.

version=$(git describe --tags --always --dirty)
azd env set VERSION "$version"
