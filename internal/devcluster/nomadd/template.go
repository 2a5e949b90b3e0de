//lint:file-ignore ST1005 the texts are those of Nomad, which clients match

package nomadd

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/template"
)

// secret is a value of a Nomad variable in a template. Like consul-template's
// it prints as its value and knows its key and path.
type secret struct{ Key, Value string }

func (v secret) String() string { return v.Value }

// MarshalJSON makes toJSON write the bare value.
func (v secret) MarshalJSON() ([]byte, error) { return json.Marshal(v.Value) }

// render executes the part of the template language that job files use: Go's
// own, with nomadVar, nomadVarExists, env, toJSON and a few string functions.
func (s *Server) render(text, left, right, namespace string, env map[string]string) (string, error) {
	t, err := template.New("task").Delims(cmp.Or(left, "{{"), cmp.Or(right, "}}")).Funcs(template.FuncMap{
		"nomadVar": func(path string) (map[string]secret, error) {
			items, ok := s.variable(namespace, path)
			if !ok {
				return nil, fmt.Errorf("Missing: nomad.var.block(%s@%s.%s)", path, namespace, region)
			}
			return items, nil
		},
		"nomadVarExists": func(path string) bool { _, ok := s.variable(namespace, path); return ok },
		"env":            func(name string) string { return env[name] },
		"toJSON":         toJSON,
		"toUpper":        strings.ToUpper,
		"toLower":        strings.ToLower,
		"trimSpace":      strings.TrimSpace,
		"replaceAll":     func(from, to, in string) string { return strings.ReplaceAll(in, from, to) },
	}).Parse(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = t.Execute(&out, nil)
	return out.String(), err
}

func toJSON(v any) (string, error) {
	data, err := json.Marshal(v)
	return string(data), err
}

func (s *Server) variable(namespace, path string) (map[string]secret, bool) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	v := s.state.variables[key{namespace, path}]
	if v == nil {
		return nil, false
	}
	items := map[string]secret{}
	for k, value := range v.Items {
		items[k] = secret{k, value}
	}
	return items, true
}

// parseDotenv reads KEY=value lines; a value may be quoted, and in double
// quotes has the escapes of JSON.
func parseDotenv(text string) (map[string]string, error) {
	out := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok {
			return nil, fmt.Errorf("line %d: missing =", n)
		}
		value, err := unquote(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		out[strings.TrimSpace(name)] = value
	}
	return out, lines.Err()
}

func unquote(value string) (string, error) {
	switch {
	case strings.HasPrefix(value, `"`):
		var s string
		if err := json.Unmarshal([]byte(value), &s); err != nil {
			return strconv.Unquote(value)
		}
		return s, nil
	case len(value) > 1 && strings.HasPrefix(value, "'") && strings.HasSuffix(value, "'"):
		return value[1 : len(value)-1], nil
	default:
		value, _, _ = strings.Cut(value, " #")
		return strings.TrimSpace(value), nil
	}
}
