package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

func newToken(sh *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Manage the tokens of clients",
		Long: `Manage the tokens that clients show in DROVER_TOKEN. A token has one of three roles:
read looks, submit may also submit items, operate may do everything. The token that the
server itself was started with may do everything, and makes the first of these.`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenCreate(sh), newTokenList(sh), newTokenRevoke(sh))
	return cmd
}

type tokenCreateOptions struct {
	remote
	control.TokenRequest
	role string
}

func newTokenCreate(sh *shell) *cobra.Command {
	var opts tokenCreateOptions
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Make a token, and print it this once",
		Example: "  drover token create --role submit --name ci --lifetime 720h",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Role = work.Role(opts.role)
			return runTokenCreate(cmd.Context(), opts, sh)
		},
	}
	opts.bind(cmd, sh)
	flags := cmd.Flags()
	flags.StringVar(&opts.role, "role", string(work.RoleRead), "read, submit or operate")
	flags.StringVar(&opts.Name, "name", "", "whose it is, for people")
	flags.TextVar(&opts.Lifetime, "lifetime", work.Duration(0), "time until it expires; for ever if not given")
	return cmd
}

func runTokenCreate(ctx context.Context, opts tokenCreateOptions, sh *shell) error {
	return ask(ctx, opts.remote, sh, func(c *api.Client, ctx context.Context) (control.NewToken, error) {
		return c.CreateToken(ctx, opts.TokenRequest)
	}, func(p *printer, token control.NewToken) {
		p.printf("%s\n", token.Text)
	})
}

func newTokenList(sh *shell) *cobra.Command {
	var opts remote
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, without their secrets",
		Args:  arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask(cmd.Context(), opts, sh, (*api.Client).Tokens, tellTokens)
		},
	}
	opts.bind(cmd, sh)
	return cmd
}

func tellTokens(p *printer, tokens []work.Token) {
	now := time.Now()
	rows := [][]string{{"ID", "ROLE", "NAME", "AGE", "EXPIRES"}}
	for _, t := range tokens {
		rows = append(rows, []string{t.ID, string(t.Role), orNone(t.Name), span(now.Sub(t.CreatedAt)), expiry(t, now)})
	}
	p.table("", rows)
}

func expiry(t work.Token, now time.Time) string {
	switch {
	case t.ExpiresAt.IsZero():
		return "never"
	case !now.Before(t.ExpiresAt):
		return "expired"
	}
	return fmt.Sprintf("in %s", span(t.ExpiresAt.Sub(now)))
}

func newTokenRevoke(sh *shell) *cobra.Command {
	var opts remote
	cmd := &cobra.Command{
		Use:   "revoke TOKEN-ID",
		Short: "Remove a token, which opens nothing from then on",
		Args:  arguments("TOKEN-ID"),
		RunE:  func(cmd *cobra.Command, args []string) error { return runTokenRevoke(cmd.Context(), opts, args[0], sh) },
	}
	opts.bind(cmd, sh)
	return cmd
}

func runTokenRevoke(ctx context.Context, opts remote, id string, sh *shell) error {
	return ask(ctx, opts, sh, func(c *api.Client, ctx context.Context) (work.Token, error) {
		return c.RevokeToken(ctx, id)
	}, func(p *printer, token work.Token) {
		p.printf("%s revoked\n", token.ID)
	})
}
