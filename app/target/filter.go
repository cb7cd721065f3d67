package target

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/cel-go/cel"

	"allregions/app/notification"
	"allregions/app/replication"
)

// Limits of a filter. A comparison or a call of startsWith costs about 1, for each
// element of a list that it reads. An evaluation reaches the limit long before a
// second is over.
const (
	maxFilter     = 4096 // characters
	maxFilterCost = 100_000
)

// variables are what a filter can read: the fields of the JSON status, under
// their names there.
var variables = []struct {
	name string
	typ  *cel.Type
	of   func(notification.Status) any
}{
	{"id", cel.StringType, func(s notification.Status) any { return s.ID }},
	{"action", cel.StringType, func(s notification.Status) any { return s.Action }},
	{"registry", cel.StringType, func(s notification.Status) any { return s.Registry }},
	{"repository", cel.StringType, func(s notification.Status) any { return s.Repository }},
	{"tag", cel.StringType, func(s notification.Status) any { return s.Tag }},
	{"digest", cel.StringType, func(s notification.Status) any { return s.Digest }},
	{"mediaType", cel.StringType, func(s notification.Status) any { return s.MediaType }},
	{"size", cel.IntType, func(s notification.Status) any { return s.Size }},
	{"status", cel.StringType, func(s notification.Status) any { return string(s.Status) }},
	{"startedAt", cel.TimestampType, func(s notification.Status) any { return s.StartedAt }},
	{"deadline", cel.TimestampType, func(s notification.Status) any { return s.Deadline }},
	{"concludedAt", cel.TimestampType, func(s notification.Status) any { return *cmp.Or(s.ConcludedAt, &time.Time{}) }},
	{"durationMs", cel.IntType, func(s notification.Status) any { return *cmp.Or(s.DurationMS, new(int64)) }},
	{"regions", cel.ListType(cel.StringType), func(s notification.Status) any { return names(s.Regions) }},
	{"missing", cel.ListType(cel.StringType), func(s notification.Status) any { return replication.Names(s.Missing) }},
	{"replicas", cel.MapType(cel.StringType, cel.StringType), func(s notification.Status) any { return replicaStates(s) }},
	{"optional", cel.ListType(cel.StringType), func(s notification.Status) any { return names(s.OptionalIn()) }},
	{"mismatch", cel.BoolType, func(s notification.Status) any { return s.Mismatch }},
}

func names(regions []notification.RegionStatus) []string {
	names := make([]string, 0, len(regions))
	for _, r := range regions {
		names = append(names, string(r.Region))
	}
	return names
}

func replicaStates(s notification.Status) map[string]string {
	states := make(map[string]string, len(s.Replicas))
	for region, state := range s.Replicas {
		states[string(region)] = state
	}
	return states
}

// filter is a compiled expression. It may be used from several goroutines.
type filter struct{ program cel.Program }

// compileFilter also checks the expression's types. Its error is one line.
func compileFilter(expression string) (*filter, error) {
	options := []cel.EnvOption{cel.ParserExpressionSizeLimit(maxFilter), cel.ExtendedValidations()}
	for _, v := range variables {
		options = append(options, cel.Variable(v.name, v.typ))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	ast, issues := env.Compile(expression)
	if issues.Err() != nil {
		var problems []string
		for _, e := range issues.Errors() {
			problems = append(problems, fmt.Sprintf("at %d:%d: %s", e.Location.Line(), e.Location.Column()+1, oneLine(e.Message)))
		}
		return nil, errors.New(strings.Join(problems, "; "))
	}
	if typ := ast.OutputType(); !typ.IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("is of type %s; it must be true or false", typ)
	}
	program, err := env.Program(ast, cel.CostLimit(maxFilterCost))
	return &filter{program}, err
}

func (f *filter) takes(s notification.Status) (bool, error) {
	values := make(map[string]any, len(variables))
	for _, v := range variables {
		values[v.name] = v.of(s)
	}
	result, _, err := f.program.Eval(values)
	if err != nil {
		return false, err
	}
	return result.Value() == true, nil // compileFilter has checked the type
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
