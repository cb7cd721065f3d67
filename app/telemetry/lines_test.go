package telemetry

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// lines is what was measured, a line for each series: name, labels, then the
// value, or the number and sum of values.
func lines(t *testing.T, all metricdata.ResourceMetrics) (found []string) {
	t.Helper()
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			line := func(labels attribute.Set, values ...any) {
				var kvs []string
				for _, kv := range labels.ToSlice() {
					kvs = append(kvs, string(kv.Key)+"="+kv.Value.Emit())
				}
				found = append(found, m.Name+" "+strings.Join(kvs, ",")+" "+strings.TrimSpace(fmt.Sprintln(values...)))
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					line(p.Attributes, p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					line(p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					line(p.Attributes, p.Count, p.Sum)
				}
			default:
				t.Errorf("%s is a %T", m.Name, data)
			}
		}
	}
	slices.Sort(found)
	return found
}

func firstFields(lines []string) (names []string) {
	for _, l := range lines {
		names = append(names, strings.Fields(l)[0])
	}
	return names
}

// labelsOf lists the labels of a metric on a page for Prometheus, but for the
// bounds of a histogram.
func labelsOf(page, name string) string {
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(?:_bucket|_sum|_count)?\{(.*)\}`).FindAllStringSubmatch(page, -1) {
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[1], -1) {
			if l[1] != "le" && !slices.Contains(names, l[1]) {
				names = append(names, l[1])
			}
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
