package rotationotel_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"

	dto "github.com/prometheus/client_model/go"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

const docs = "../../docs/"

// catalogue is what a pool exports: by series name, its labels with the values that there are.
type catalogue map[string]map[string][]string

// A histogram is three series to PromQL.
func catalogueOf(families []*dto.MetricFamily) catalogue {
	c := make(catalogue)
	for _, family := range families {
		names := []string{family.GetName()}
		if family.GetType() == dto.MetricType_HISTOGRAM {
			names = []string{family.GetName() + "_bucket", family.GetName() + "_sum", family.GetName() + "_count"}
		}
		for _, name := range names {
			c[name] = map[string][]string{"job": nil, "instance": nil} // Prometheus adds them
			if strings.HasSuffix(name, "_bucket") {
				c[name]["le"] = nil
			}
			for _, m := range family.GetMetric() {
				for _, label := range m.GetLabel() {
					c[name][label.GetName()] = append(c[name][label.GetName()], label.GetValue())
				}
			}
		}
	}
	return c
}

var promQL = parser.NewParser(parser.Options{})

// check parses an expression and returns the labels that its result can have, and the series it is about. It complains
// of names, labels and values that nothing exports.
func (c catalogue) check(t *testing.T, where, text string) (kept map[string]bool, used []string) {
	t.Helper()
	// Grafana's variables stand for what can be in their place.
	text = strings.NewReplacer("$__rate_interval", "5m", "$__interval", "1m").Replace(text)
	expression, err := promQL.ParseExpr(text)
	if err != nil {
		t.Errorf("%s: %s: %v", where, text, err)
		return nil, nil
	}
	kept = make(map[string]bool)
	var grouped []string
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			used = append(used, n.Name)
			c.checkSelector(t, where, n)
			for label := range c[n.Name] {
				kept[label] = true
			}
		case *parser.AggregateExpr:
			if n.Without {
				t.Errorf("%s: without() is not understood here", where)
			}
			grouped = append(grouped, n.Grouping...)
		default: // names nothing
		}
		return nil
	})
	for _, label := range grouped {
		if !kept[label] {
			t.Errorf("%s: it is grouped by %s, which %v does not have", where, label, used)
		}
	}
	if aggregate, ok := expression.(*parser.AggregateExpr); ok {
		kept = make(map[string]bool)
		for _, label := range aggregate.Grouping {
			kept[label] = true
		}
	}
	return kept, used
}

func (c catalogue) checkSelector(t *testing.T, where string, n *parser.VectorSelector) {
	t.Helper()
	has, known := c[n.Name]
	if !known {
		t.Errorf("%s: nothing exports %s", where, n.Name)
		return
	}
	for _, m := range n.LabelMatchers {
		if m.Name == model.MetricNameLabel || strings.HasPrefix(m.Value, "$") {
			continue
		}
		values, known := has[m.Name]
		if !known {
			t.Errorf("%s: %s has no label %s", where, n.Name, m.Name)
		}
		for _, value := range strings.Split(m.Value, "|") {
			if !slices.Contains(values, value) {
				t.Errorf("%s: %s is never %s=%q, but %q", where, n.Name, m.Name, value, values)
			}
		}
	}
}

// dashboard is what the test needs of Grafana's format.
type dashboard struct {
	SchemaVersion int `json:"schemaVersion"`
	Panels        []struct {
		ID      int    `json:"id"`
		Type    string `json:"type"`
		Title   string `json:"title"`
		GridPos struct {
			X int `json:"x"`
			W int `json:"w"`
		} `json:"gridPos"`
		Targets []struct {
			Datasource struct {
				UID string `json:"uid"`
			} `json:"datasource"`
			Expr   string `json:"expr"`
			Legend string `json:"legendFormat"`
		} `json:"targets"`
	} `json:"panels"`
	Annotations struct {
		List []struct {
			Expr  string `json:"expr"`
			Title string `json:"titleFormat"`
		} `json:"list"`
	} `json:"annotations"`
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
}

func loadDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile(docs + "observability/grafana-dashboard.json")
	kit.Check(t, err)
	kit.Check(t, json.Unmarshal(text, &d))
	return d
}

type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func loadAlerts(t *testing.T) []alert {
	t.Helper()
	text, err := os.ReadFile(docs + "observability/alerts.yaml")
	kit.Check(t, err)
	var file struct {
		Groups []struct {
			Name  string  `yaml:"name"`
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true) // as Prometheus does
	kit.Check(t, decoder.Decode(&file))
	var alerts []alert
	for _, group := range file.Groups {
		alerts = append(alerts, group.Rules...)
	}
	if len(alerts) == 0 {
		t.Fatal("there are no alerts")
	}
	return alerts
}

var (
	legendLabel = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
	alertLabel  = regexp.MustCompile(`\$labels\.(\w+)`)
	labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
)

// The dashboard, the alerts and the documentation name what a real pool exports through the real exporter, and all of it.
func TestFilesNameWhatIsExported(t *testing.T) {
	t.Parallel()
	s := open(t, short, rotation.Config{})
	s.live(t)
	s.becomes(t, 2, "vaultpool_revocations_total", "vaultpool_outcome", "ok")
	exported := catalogueOf(s.gather(t))
	shown := make(map[string]bool)
	t.Run("dashboard", func(t *testing.T) { exported.checkDashboard(t, loadDashboard(t), shown) })
	t.Run("alerts", func(t *testing.T) {
		for _, a := range loadAlerts(t) {
			kept, used := exported.check(t, a.Alert, a.Expr)
			for _, name := range used {
				shown[name] = true
			}
			for _, text := range a.Annotations {
				mustKeep(t, a.Alert, kept, alertLabel, text)
			}
			if a.Annotations["summary"] == "" || a.Annotations["description"] == "" || a.Labels["severity"] == "" {
				t.Errorf("%s says too little", a.Alert)
			}
		}
	})
	t.Run("documentation", func(t *testing.T) { checkDocumentation(t, exported, shown) })
}

func mustKeep(t *testing.T, where string, kept map[string]bool, label *regexp.Regexp, text string) {
	t.Helper()
	for _, match := range label.FindAllStringSubmatch(text, -1) {
		if !kept[match[1]] {
			t.Errorf("%s: %q tells a label that the expression does not keep", where, text)
		}
	}
}

func (c catalogue) checkDashboard(t *testing.T, d dashboard, shown map[string]bool) {
	t.Helper()
	if d.SchemaVersion < 39 {
		t.Errorf("schema version %d is older than Grafana 10.4", d.SchemaVersion)
	}
	variables := make(map[string]bool)
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if v.Type != "query" {
			continue
		}
		parts := labelValues.FindStringSubmatch(v.Definition)
		if parts == nil {
			t.Errorf("variable %s is %q", v.Name, v.Definition)
			continue
		}
		if kept, _ := c.check(t, "variable "+v.Name, parts[1]); !kept[parts[2]] {
			t.Errorf("variable %s takes values of %s, which there is none of", v.Name, parts[2])
		}
	}
	if !maps.Equal(variables, map[string]bool{"datasource": true, "job": true, "pool": true}) {
		t.Errorf("the variables are %v", variables)
	}
	ids := make(map[int]bool)
	for _, p := range d.Panels {
		if ids[p.ID] || p.GridPos.W == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s: id %d, at %+v", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		if (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("%s is a %s with %d targets", p.Title, p.Type, len(p.Targets))
		}
		for _, target := range p.Targets {
			kept, used := c.check(t, p.Title, target.Expr)
			mustKeep(t, p.Title, kept, legendLabel, target.Legend)
			if target.Datasource.UID != "${datasource}" || strings.Count(target.Expr, `job=~"$job", vaultpool_pool=~"$pool"`) != len(used) {
				t.Errorf("%s: %q is not of the data source, jobs and pools that are chosen", p.Title, target.Expr)
			}
			for _, name := range used {
				shown[name] = true
			}
		}
	}
	for _, a := range d.Annotations.List {
		kept, _ := c.check(t, "annotation", a.Expr)
		mustKeep(t, "annotation", kept, legendLabel, a.Title)
	}
}

// checkDocumentation holds the page to what there is, and the dashboard to showing all of it.
func checkDocumentation(t *testing.T, exported catalogue, shown map[string]bool) {
	t.Helper()
	text, err := os.ReadFile(docs + "observability.md")
	kit.Check(t, err)
	page := string(text)
	for name := range exported {
		family := name
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			family = strings.TrimSuffix(family, suffix)
		}
		if !strings.HasPrefix(name, "vaultpool_") {
			continue
		}
		if !strings.Contains(page, fmt.Sprintf("| `%s` |", family)) {
			t.Errorf("the page has no row for %s", family)
		}
		if !shown[name] && !shown[family+"_bucket"] {
			t.Errorf("neither the dashboard nor an alert shows %s", name)
		}
	}
	for _, row := range regexp.MustCompile("\\| `(vaultpool_\\w+)` \\|").FindAllStringSubmatch(page, -1) {
		if exported[row[1]] == nil && exported[row[1]+"_bucket"] == nil {
			t.Errorf("the page tells of %s, which nothing exports", row[1])
		}
	}
	for _, a := range loadAlerts(t) {
		if !strings.Contains(page, "### "+a.Alert+"\n") {
			t.Errorf("the page does not say what to do at %s", a.Alert)
		}
	}
}
