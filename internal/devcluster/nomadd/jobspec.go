package nomadd

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/api"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// parseJob serves /v1/jobs/parse.
func (s *Server) parseJob(_ http.ResponseWriter, r *http.Request) (any, error) {
	var request api.JobsParseRequest
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	if request.JobHCL == "" {
		return nil, coded(http.StatusBadRequest, "Job spec is empty")
	}
	job, err := parseSpec(request.JobHCL, request.Variables)
	if err != nil {
		return nil, coded(http.StatusBadRequest, fmt.Sprintf("Failed to parse job: %v", err))
	}
	if request.Canonicalize {
		job.Canonicalize()
	}
	return job, nil
}

// parseSpec reads a job specification. variables is the text of a variables
// file, which gives values to the specification's variable blocks.
func parseSpec(text, variables string) (*api.Job, error) {
	file, diags := hclsyntax.ParseConfig([]byte(text), "input.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	given, diags := hclsyntax.ParseConfig([]byte(variables), "variables.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		return nil, fmt.Errorf("unable to parse var content: %w", diags)
	}
	keepRuntimeReferences(file)
	root, diags := file.Body.Content(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
		{Type: "variable", LabelNames: []string{"name"}}, {Type: "locals"}, {Type: "job", LabelNames: []string{"name"}},
	}})
	if diags.HasErrors() {
		return nil, all(diags)
	}
	context, diags := evaluation(root, given)
	if diags.HasErrors() {
		return nil, all(diags)
	}
	var jobs []*hcl.Block
	for _, block := range root.Blocks {
		if block.Type == "job" {
			jobs = append(jobs, block)
		}
	}
	if len(jobs) != 1 {
		return nil, fmt.Errorf("input.hcl: a specification has one job block, not %d", len(jobs))
	}
	job := &api.Job{}
	if diags := decodeBody(jobs[0].Body, context, job); diags.HasErrors() {
		return nil, all(diags)
	}
	complete(job, jobs[0].Labels[0])
	return job, nil
}

// all is an error that says every diagnostic, each with its position.
func all(diags hcl.Diagnostics) error {
	var texts []string
	for _, d := range diags.Errs() {
		texts = append(texts, d.Error())
	}
	return errors.New(strings.Join(texts, "\n"))
}

// complete sets what Nomad's parser sets without being asked.
func complete(job *api.Job, label string) {
	if job.ID == nil {
		job.ID = &label
	}
	if job.Name == nil {
		job.Name = &label
	}
	for _, group := range job.TaskGroups {
		for _, task := range group.Tasks {
			for _, t := range task.Templates {
				setDefault(&t.ChangeMode, "restart")
				setDefault(&t.Perms, "0644")
				setDefault(&t.Splay, 5*time.Second)
				setDefault(&t.ErrMissingKey, false)
			}
		}
	}
}

func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// keepRuntimeReferences lets ${attr.…}, ${NOMAD_…} and the like, which have
// their meaning only on a node, stand as they are written: each is made a
// reference to a variable of that very name, which evaluation defines.
func keepRuntimeReferences(file *hcl.File) {
	body, _ := file.Body.(*hclsyntax.Body)
	_ = hclsyntax.VisitAll(body, func(node hclsyntax.Node) hcl.Diagnostics {
		if e, ok := node.(*hclsyntax.ScopeTraversalExpr); ok && isRuntime(e.Traversal.RootName()) {
			source := e.SrcRange.SliceBytes(file.Bytes)
			e.Traversal = hcl.Traversal{hcl.TraverseRoot{Name: "${" + string(source) + "}", SrcRange: e.SrcRange}}
		}
		return nil
	})
}

func isRuntime(root string) bool {
	switch root {
	case "attr", "node", "meta", "env", "device":
		return true
	}
	return strings.HasPrefix(root, "NOMAD_")
}

// evaluation gives the values that expressions may name: var.…, local.…,
// and the runtime references as their own text.
func evaluation(root *hcl.BodyContent, given *hcl.File) (*hcl.EvalContext, hcl.Diagnostics) {
	context := &hcl.EvalContext{Variables: map[string]cty.Value{}, Functions: functions}
	values, diags := given.Body.JustAttributes()
	vars, locals := map[string]cty.Value{}, map[string]cty.Value{}
	for _, block := range root.Blocks {
		if block.Type != "variable" {
			continue
		}
		name := block.Labels[0]
		value, more := variableValue(block, values[name])
		diags = append(diags, more...)
		vars[name] = value
	}
	context.Variables["var"] = cty.ObjectVal(vars)
	for _, block := range root.Blocks {
		if block.Type != "locals" {
			continue
		}
		attrs, more := block.Body.JustAttributes()
		diags = append(diags, more...)
		for name, attr := range attrs {
			value, more := attr.Expr.Value(withReferences(context, attr.Expr))
			diags = append(diags, more...)
			locals[name] = value
		}
	}
	context.Variables["local"] = cty.ObjectVal(locals)
	return context, diags
}

// withReferences defines the runtime references of an expression.
func withReferences(parent *hcl.EvalContext, expr hcl.Expression) *hcl.EvalContext {
	child := parent.NewChild()
	child.Variables = map[string]cty.Value{}
	for _, traversal := range expr.Variables() {
		if name := traversal.RootName(); strings.HasPrefix(name, "${") {
			child.Variables[name] = cty.StringVal(name)
		}
	}
	if len(child.Variables) == 0 {
		return parent
	}
	return child
}

// variableValue is what was given for a variable, or its default, as its type.
func variableValue(block *hcl.Block, given *hcl.Attribute) (cty.Value, hcl.Diagnostics) {
	content, diags := block.Body.Content(&hcl.BodySchema{
		Attributes: []hcl.AttributeSchema{{Name: "type"}, {Name: "default"}, {Name: "description"}},
		Blocks:     []hcl.BlockHeaderSchema{{Type: "validation"}},
	})
	name, attr := block.Labels[0], content.Attributes["default"]
	if given != nil {
		attr = given
	}
	if attr == nil {
		return cty.DynamicVal, append(diags, problem("Unset variable", fmt.Sprintf("A used variable must be set or have a default value; see https://www.nomadproject.io/docs/job-specification/hcl2/variables for details: %q.", name), block.DefRange))
	}
	value, more := attr.Expr.Value(withReferences(&hcl.EvalContext{Functions: functions}, attr.Expr))
	diags = append(diags, more...)
	declared := content.Attributes["type"]
	if declared == nil || more.HasErrors() {
		return value, diags
	}
	kind, more := typeexpr.TypeConstraint(declared.Expr)
	diags = append(diags, more...)
	converted, err := convert.Convert(value, kind)
	if err != nil {
		return cty.DynamicVal, append(diags, problem("Invalid value for variable", fmt.Sprintf("The value of %q is not of its type: %s.", name, err), attr.Range))
	}
	return converted, diags
}

func problem(summary, detail string, at hcl.Range) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at}
}
