package internal
import (
 _ "github.com/hashicorp/hcl/v2/hclsimple"
 _ "github.com/hashicorp/hcl/v2/gohcl"
 _ "github.com/zclconf/go-cty/cty"
 _ "github.com/zclconf/go-cty/cty/function/stdlib"
 _ "github.com/spf13/cobra"
 _ "github.com/prometheus/client_golang/prometheus"
 _ "github.com/google/go-github/v75/github"
 _ "golang.org/x/time/rate"
 _ "golang.org/x/sync/errgroup"
 _ "github.com/rogpeppe/go-internal/testscript"
 _ "pgregory.net/rapid"
 _ "go.uber.org/goleak"
 _ "github.com/docker/docker/client"
 _ "github.com/mitchellh/mapstructure"
 _ "github.com/goccy/go-yaml"
)
