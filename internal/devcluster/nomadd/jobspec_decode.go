package nomadd

import (
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/dynblock"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	"github.com/zclconf/go-cty/cty/gocty"
)

// functions are those of the job language that need nothing but their arguments.
var functions = map[string]function.Function{
	"abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "chomp": stdlib.ChompFunc, "coalesce": stdlib.CoalesceFunc,
	"coalescelist": stdlib.CoalesceListFunc, "compact": stdlib.CompactFunc, "concat": stdlib.ConcatFunc, "contains": stdlib.ContainsFunc,
	"distinct": stdlib.DistinctFunc, "element": stdlib.ElementFunc, "flatten": stdlib.FlattenFunc, "floor": stdlib.FloorFunc,
	"format": stdlib.FormatFunc, "formatlist": stdlib.FormatListFunc, "indent": stdlib.IndentFunc, "join": stdlib.JoinFunc,
	"jsondecode": stdlib.JSONDecodeFunc, "jsonencode": stdlib.JSONEncodeFunc, "keys": stdlib.KeysFunc, "length": stdlib.LengthFunc,
	"lookup": stdlib.LookupFunc, "lower": stdlib.LowerFunc, "max": stdlib.MaxFunc, "merge": stdlib.MergeFunc, "min": stdlib.MinFunc,
	"parseint": stdlib.ParseIntFunc, "range": stdlib.RangeFunc, "regex": stdlib.RegexFunc, "regex_replace": stdlib.RegexReplaceFunc,
	"replace": stdlib.ReplaceFunc, "reverse": stdlib.ReverseListFunc, "slice": stdlib.SliceFunc, "sort": stdlib.SortFunc,
	"split": stdlib.SplitFunc, "strlen": stdlib.StrlenFunc, "substr": stdlib.SubstrFunc, "title": stdlib.TitleFunc,
	"tobool": stdlib.MakeToFunc(cty.Bool), "tonumber": stdlib.MakeToFunc(cty.Number), "tostring": stdlib.MakeToFunc(cty.String),
	"trim": stdlib.TrimFunc, "trimprefix": stdlib.TrimPrefixFunc, "trimspace": stdlib.TrimSpaceFunc, "trimsuffix": stdlib.TrimSuffixFunc,
	"upper": stdlib.UpperFunc, "values": stdlib.ValuesFunc, "zipmap": stdlib.ZipmapFunc,
}

var durationType = reflect.TypeFor[time.Duration]()

// field is a field of a struct of the API with its place in the job language.
type field struct {
	index int
	name  string
	kind  string
}

// fieldsOf reads the hcl tags of a struct, which say what the job language
// has: `name,optional`, `name,block`, `name,label`, or a required `name`.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		tag, ok := t.Field(i).Tag.Lookup("hcl")
		if !ok {
			continue
		}
		name, kind, _ := strings.Cut(tag, ",")
		out = append(out, field{i, name, kind})
	}
	return out
}

// decodeBody fills a struct of the API from a block of the job language; what
// the struct doesn't name is an error at its position.
func decodeBody(body hcl.Body, ctx *hcl.EvalContext, into any) hcl.Diagnostics {
	target := reflect.ValueOf(into).Elem()
	fields := fieldsOf(target.Type())
	schema := &hcl.BodySchema{}
	for _, f := range fields {
		switch f.kind {
		case "label":
		case "block":
			block := hcl.BlockHeaderSchema{Type: f.name}
			if hasLabel(target.Field(f.index).Type()) {
				block.LabelNames = []string{"name"}
			}
			schema.Blocks = append(schema.Blocks, block)
		default:
			schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: f.name, Required: f.kind == ""})
		}
	}
	body, diags := takeMaps(expand(body, ctx), ctx, target, fields)
	content, more := body.Content(schema)
	diags = append(diags, more...)
	for _, f := range fields {
		if f.kind == "block" {
			diags = append(diags, decodeBlocks(content.Blocks, f.name, ctx, target.Field(f.index))...)
		} else if attr := content.Attributes[f.name]; attr != nil {
			diags = append(diags, decodeAttribute(attr, ctx, target.Field(f.index))...)
		}
	}
	return diags
}

// expand writes a body's dynamic blocks out. What is below them may hold no
// further blocks of free keys: their bodies can't be opened.
func expand(body hcl.Body, ctx *hcl.EvalContext) hcl.Body {
	native, ok := body.(*hclsyntax.Body)
	if ok && slices.ContainsFunc(native.Blocks, func(b *hclsyntax.Block) bool { return b.Type == "dynamic" }) {
		return dynblock.Expand(body, ctx)
	}
	return body
}

// takeMaps decodes maps that are written as attributes (env = {…}), which is
// allowed wherever a block of free keys is.
func takeMaps(body hcl.Body, ctx *hcl.EvalContext, target reflect.Value, fields []field) (hcl.Body, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	for _, f := range fields {
		slot := target.Field(f.index)
		if f.kind != "block" || slot.Kind() != reflect.Map || slot.Type().Elem().Kind() != reflect.String {
			continue
		}
		content, rest, _ := body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: f.name}}})
		if attr := content.Attributes[f.name]; attr != nil {
			diags = append(diags, decodeAttribute(attr, ctx, slot)...)
			body = rest
		}
	}
	return body, diags
}

// hasLabel tells whether the blocks of a field carry a name.
func hasLabel(t reflect.Type) bool {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer || (t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Pointer) {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	for _, f := range fieldsOf(t) {
		if f.kind == "label" {
			return true
		}
	}
	return false
}

func decodeBlocks(blocks hcl.Blocks, name string, ctx *hcl.EvalContext, slot reflect.Value) hcl.Diagnostics {
	var diags hcl.Diagnostics
	var seen *hcl.Block
	for _, block := range blocks {
		if block.Type != name {
			continue
		}
		many := slot.Kind() == reflect.Slice || (slot.Kind() == reflect.Map && slot.Type().Elem().Kind() == reflect.Pointer)
		if seen != nil && !many {
			return append(diags, problem(fmt.Sprintf("Duplicate %s block", name),
				fmt.Sprintf("Only one %s block is allowed. Another was defined at %s.", name, seen.DefRange), block.DefRange))
		}
		seen = block
		diags = append(diags, decodeBlock(block, ctx, slot)...)
	}
	return diags
}

func decodeBlock(block *hcl.Block, ctx *hcl.EvalContext, slot reflect.Value) hcl.Diagnostics {
	switch {
	case slot.Kind() == reflect.Map && slot.Type().Elem().Kind() == reflect.Pointer:
		item, diags := decodeStruct(block, ctx, slot.Type().Elem().Elem())
		if slot.IsNil() {
			slot.Set(reflect.MakeMap(slot.Type()))
		}
		slot.SetMapIndex(reflect.ValueOf(block.Labels[0]), item)
		return diags
	case slot.Kind() == reflect.Map:
		return decodeFree(block.Body, ctx, slot)
	case slot.Kind() == reflect.Slice && slot.Type().Elem().Kind() == reflect.Pointer:
		item, diags := decodeStruct(block, ctx, slot.Type().Elem().Elem())
		slot.Set(reflect.Append(slot, item))
		return diags
	case slot.Kind() == reflect.Slice:
		item, diags := decodeStruct(block, ctx, slot.Type().Elem())
		slot.Set(reflect.Append(slot, item.Elem()))
		return diags
	default:
		item, diags := decodeStruct(block, ctx, slot.Type().Elem())
		slot.Set(item)
		return diags
	}
}

func decodeStruct(block *hcl.Block, ctx *hcl.EvalContext, t reflect.Type) (reflect.Value, hcl.Diagnostics) {
	item := reflect.New(t)
	diags := decodeBody(block.Body, ctx, item.Interface())
	for _, f := range fieldsOf(t) {
		if f.kind != "label" || len(block.Labels) == 0 {
			continue
		}
		slot := item.Elem().Field(f.index)
		if slot.Kind() == reflect.Pointer {
			slot.Set(reflect.ValueOf(&block.Labels[0]))
		} else {
			slot.SetString(block.Labels[0])
		}
	}
	return item, diags
}

// decodeFree decodes a block of free keys: env, meta, config. Blocks inside
// a config become lists of maps, as drivers take them.
func decodeFree(body hcl.Body, ctx *hcl.EvalContext, slot reflect.Value) hcl.Diagnostics {
	if slot.IsNil() {
		slot.Set(reflect.MakeMap(slot.Type()))
	}
	values, diags := freeValues(body, ctx)
	for k, v := range values {
		if slot.Type().Elem().Kind() == reflect.String {
			v = fmt.Sprint(v)
		}
		slot.SetMapIndex(reflect.ValueOf(k), reflect.ValueOf(v))
	}
	return diags
}

func freeValues(body hcl.Body, ctx *hcl.EvalContext) (map[string]any, hcl.Diagnostics) {
	out := map[string]any{}
	attrs, blocks, diags := openBody(body)
	for name, attr := range attrs {
		value, more := attr.Expr.Value(withReferences(ctx, attr.Expr))
		diags = append(diags, more...)
		if !more.HasErrors() && !value.IsNull() {
			out[name] = plain(value)
		}
	}
	for _, block := range blocks {
		inner, more := freeValues(block.Body, ctx)
		diags = append(diags, more...)
		list, _ := out[block.Type].([]any)
		out[block.Type] = append(list, nest(block.Labels, inner))
	}
	return out, diags
}

// nest puts a block's labels around its values.
func nest(labels []string, values map[string]any) map[string]any {
	for i := len(labels) - 1; i >= 0; i-- {
		values = map[string]any{labels[i]: []any{values}}
	}
	return values
}

func decodeAttribute(attr *hcl.Attribute, ctx *hcl.EvalContext, slot reflect.Value) hcl.Diagnostics {
	value, diags := attr.Expr.Value(withReferences(ctx, attr.Expr))
	if diags.HasErrors() || value.IsNull() {
		return diags
	}
	if err := assign(value, slot); err != nil {
		diags = append(diags, problem("Unsuitable value type", fmt.Sprintf("Unsuitable value: %s", err), attr.Expr.Range()))
	}
	return diags
}

func assign(value cty.Value, slot reflect.Value) error {
	target := slot.Type()
	if target.Kind() == reflect.Pointer {
		inner := reflect.New(target.Elem())
		if err := assign(value, inner.Elem()); err != nil {
			return err
		}
		slot.Set(inner)
		return nil
	}
	if target == durationType && value.Type() == cty.String {
		d, err := time.ParseDuration(value.AsString())
		slot.SetInt(int64(d))
		return err
	}
	wanted, err := gocty.ImpliedType(slot.Interface())
	if err != nil {
		return err
	}
	if target == durationType {
		wanted = cty.Number
	}
	converted, err := convert.Convert(value, wanted)
	if err != nil {
		return err
	}
	return gocty.FromCtyValue(converted, slot.Addr().Interface())
}

// plain turns a value into the strings, numbers, lists and maps of JSON.
func plain(value cty.Value) any {
	switch {
	case value.IsNull() || !value.IsKnown():
		return nil
	case value.Type() == cty.String:
		return value.AsString()
	case value.Type() == cty.Bool:
		return value.True()
	case value.Type() == cty.Number:
		if n, accuracy := value.AsBigFloat().Int64(); accuracy == big.Exact {
			return n
		}
		n, _ := value.AsBigFloat().Float64()
		return n
	case value.Type().IsObjectType() || value.Type().IsMapType():
		out := map[string]any{}
		for k, v := range value.AsValueMap() {
			out[k] = plain(v)
		}
		return out
	default:
		out := []any{}
		for _, v := range value.AsValueSlice() {
			out = append(out, plain(v))
		}
		return out
	}
}

// openBody lists what is in a block that may hold anything.
func openBody(body hcl.Body) (hcl.Attributes, hcl.Blocks, hcl.Diagnostics) {
	native, ok := body.(*hclsyntax.Body)
	if !ok {
		attrs, diags := body.JustAttributes()
		return attrs, nil, diags
	}
	attrs := hcl.Attributes{}
	for name, attr := range native.Attributes {
		attrs[name] = attr.AsHCLAttribute()
	}
	var blocks hcl.Blocks
	for _, block := range native.Blocks {
		blocks = append(blocks, block.AsHCLBlock())
	}
	return attrs, blocks, nil
}
