package nomadd

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// environment builds the variables of a task: Nomad's own, the job's, and
// those of templates with env = true, in rising order of precedence.
func (r *runner) environment(host, inside Layout) (map[string]string, error) {
	env := r.nomadEnv(inside)
	symbols := r.symbols(env)
	for k, v := range r.task.Env {
		env[k] = interpolate(v, symbols)
	}
	for _, t := range r.task.Templates {
		rendered, err := r.renderTemplate(t, host, env)
		if err != nil {
			return nil, err
		}
		maps.Copy(env, rendered)
	}
	return env, nil
}

// nomadEnv gives the NOMAD_… variables.
func (r *runner) nomadEnv(dirs Layout) map[string]string {
	resources := r.alloc.AllocatedResources.Tasks[r.task.Name]
	index := r.alloc.Name[strings.LastIndex(r.alloc.Name, "[")+1 : len(r.alloc.Name)-1]
	env := map[string]string{
		"NOMAD_ALLOC_ID": r.alloc.ID, "NOMAD_SHORT_ALLOC_ID": r.alloc.ID[:8], "NOMAD_ALLOC_NAME": r.alloc.Name, "NOMAD_ALLOC_INDEX": index,
		"NOMAD_TASK_NAME": r.task.Name, "NOMAD_GROUP_NAME": r.alloc.TaskGroup, "NOMAD_JOB_ID": r.alloc.JobID, "NOMAD_JOB_NAME": *r.alloc.Job.Name,
		"NOMAD_NAMESPACE": r.alloc.Namespace, "NOMAD_REGION": region, "NOMAD_DC": datacenter,
		"NOMAD_ALLOC_DIR": dirs.Alloc, "NOMAD_TASK_DIR": dirs.Local, "NOMAD_SECRETS_DIR": dirs.Secrets,
		"NOMAD_MEMORY_LIMIT": strconv.FormatInt(resources.Memory.MemoryMB, 10), "NOMAD_CPU_LIMIT": strconv.FormatInt(resources.Cpu.CpuShares, 10),
	}
	if parent := deref(r.alloc.Job.ParentID); parent != "" {
		env["NOMAD_JOB_PARENT_ID"] = parent
	}
	if len(resources.Cpu.ReservedCores) > 0 {
		env["NOMAD_CPU_CORES"] = coreList(resources.Cpu.ReservedCores)
	}
	portEnv(env, r.alloc.AllocatedResources.Shared.Ports)
	for k, v := range r.meta() {
		env["NOMAD_META_"+k] = v
		env["NOMAD_META_"+strings.ToUpper(k)] = v
	}
	return env
}

// meta merges the meta of job, group and task; the innermost wins. What a
// parameterized job allows but a dispatch left out is set to nothing.
func (r *runner) meta() map[string]string {
	meta := map[string]string{}
	if p := r.alloc.Job.ParameterizedJob; p != nil {
		for _, k := range p.MetaOptional {
			meta[k] = ""
		}
	}
	maps.Copy(meta, r.alloc.Job.Meta)
	maps.Copy(meta, r.alloc.Job.LookupTaskGroup(r.alloc.TaskGroup).Meta)
	maps.Copy(meta, r.task.Meta)
	return meta
}

// symbols is what ${…} may name in a task: its node and its environment.
func (r *runner) symbols(env map[string]string) map[string]string {
	symbols := nodeEnv(r.server.node())
	for k, v := range env {
		symbols[k], symbols["env."+k] = v, v
	}
	return symbols
}

func (s *Server) node() *api.Node {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return s.state.node
}

func coreList(cores []uint16) string {
	var parts []string
	for _, id := range cores {
		parts = append(parts, strconv.Itoa(int(id)))
	}
	return strings.Join(parts, ",")
}

var reference = regexp.MustCompile(`\$\{\s*([^}\s]+)\s*\}`)

// interpolate replaces each ${name} that is known, and leaves the rest.
func interpolate(text string, symbols map[string]string) string {
	return reference.ReplaceAllStringFunc(text, func(match string) string {
		if value, ok := symbols[reference.FindStringSubmatch(match)[1]]; ok {
			return value
		}
		return match
	})
}

// interpolateAny does so in every string of a task's config.
func interpolateAny(value any, symbols map[string]string) any {
	switch v := value.(type) {
	case string:
		return interpolate(v, symbols)
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = interpolateAny(item, symbols)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[k] = interpolateAny(item, symbols)
		}
		return out
	default:
		return value
	}
}

// environ writes variables as os/exec and Docker want them.
func environ(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// renderTemplate writes a template's file and returns the variables in it
// when the template is one of env = true.
func (r *runner) renderTemplate(t *api.Template, host Layout, env map[string]string) (map[string]string, error) {
	text, err := r.server.render(deref(t.EmbeddedTmpl), deref(t.LeftDelim), deref(t.RightDelim), r.alloc.Namespace, env)
	if err != nil {
		return nil, fmt.Errorf("render template %s: %w", deref(t.DestPath), err)
	}
	destination := filepath.Join(filepath.Dir(host.Local), interpolate(deref(t.DestPath), env))
	if err := os.MkdirAll(filepath.Dir(destination), 0o755); err != nil {
		return nil, fmt.Errorf("render template %s: %w", deref(t.DestPath), err)
	}
	perms, err := strconv.ParseUint(deref(t.Perms), 8, 32)
	if err != nil {
		perms = 0o644
	}
	if err := os.WriteFile(destination, []byte(text), os.FileMode(perms)); err != nil {
		return nil, fmt.Errorf("render template %s: %w", deref(t.DestPath), err)
	}
	if !deref(t.Envvars) {
		return nil, nil
	}
	rendered, err := parseDotenv(text)
	if err != nil {
		return nil, fmt.Errorf("read template %s as variables: %w", deref(t.DestPath), err)
	}
	return rendered, nil
}
