// Package target knows who gets outcomes, and how: the settings, the filters, the
// bodies, and one attempt to deliver one event to one target. It decides nothing
// about further attempts; a [Verdict] says whether one makes sense.
//
// The targets are one setting: a list in YAML or JSON, or the path of a file that
// has it. README.md has a complete example and the keys of an entry.
//
// # Secrets
//
// The URL of a channel in Slack or Teams is as secret as a key. So no error, no log
// and nothing that prints a Target shows more of a URL than its host. Nor does it
// show a secret or the value of a header, even where the other side sends it back.
// Strings of fewer than 4 bytes are the exception: they protect nothing, and without
// them no text would be readable.
package target
