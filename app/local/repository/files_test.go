package repository

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../../.."

const appID = "allregions"

// read is the text of a file, whose path begins at the root.
func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// filesIn are the paths of all files below a directory whose names end in suffix.
// Directories of tools, which begin with a dot, are left out, but for .github.
func filesIn(t *testing.T, dir, suffix string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && strings.HasPrefix(name, ".") && strings.Trim(name, ".") != "" && name != ".github" {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(name, suffix) {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("files in %s that end in %s: %q, %v", dir, suffix, files, err)
	}
	return files
}

// section is what a page has below a heading, until the next one of its level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, text, found := strings.Cut(read(t, page), "\n"+heading+"\n")
	if !found {
		t.Fatalf("%s has no %q", page, heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	text, _, _ = strings.Cut(text, "\n"+level+" ")
	return text
}

// rowsOf are the cells of a page's tables below a heading, without the heads. What
// is in a code span is no border.
func rowsOf(t *testing.T, page, heading string) [][]string {
	t.Helper()
	var rows [][]string
	head := true
	for line := range strings.Lines(section(t, page, heading)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			head = true
			continue
		}
		if strings.HasPrefix(line, "|---") {
			head = false
			continue
		}
		if head {
			continue
		}
		var cells []string
		for _, cell := range regexp.MustCompile("(?:`[^`]*`|[^|`])+").FindAllString(line, -1) {
			cells = append(cells, strings.TrimSpace(cell))
		}
		rows = append(rows, cells)
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table below %q", page, heading)
	}
	return rows
}

// submatches are the first groups of all matches, without repetitions.
func submatches(pattern, text string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(found, m[1]) {
			found = append(found, m[1])
		}
	}
	return found
}

func oneOf(t *testing.T, pattern, text string) string {
	t.Helper()
	found := submatches(pattern, text)
	if len(found) != 1 {
		t.Fatalf("%s: got %d matches, want 1", pattern, len(found))
	}
	return found[0]
}

// settings are the names of the service's settings, and their defaults, "" for
// none. app/files_test.go holds the table that has them to the code.
func settings(t *testing.T) (names []string, defaults map[string]string) {
	t.Helper()
	defaults = map[string]string{}
	for _, row := range rowsOf(t, "app/README.md", "## Settings") {
		name := strings.Trim(row[0], "`")
		names = append(names, name)
		defaults[name] = strings.Trim(strings.TrimPrefix(row[1], "–"), "`")
	}
	return names, defaults
}

func defaultOf(t *testing.T, name string) string {
	t.Helper()
	_, defaults := settings(t)
	if defaults[name] == "" {
		t.Fatalf("the setting %s has no default", name)
	}
	return defaults[name]
}
