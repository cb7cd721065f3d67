// Package repository has the tests of the repository's files: which package may
// import which, infra/ and components/ against what the service has, what CI and
// azd run, and that the README pages say what is so. It has no code of its own.
//
// A test of a file that needs the type of the settings is in package main
// (app/files_test.go). The tests here read the settings from the table in
// app/README.md, which that file holds to the type.
package repository
