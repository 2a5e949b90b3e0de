package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

const (
	// completionTimeout bounds what a person waits for at the tab key.
	completionTimeout = 3 * time.Second
	// completedItems is how many items are offered.
	completedItems = 100
)

// completion offers words to the shell.
type completion = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// asking returns a completion that asks the server.
func asking(sh *shell, offer func(ctx context.Context, service api.Service, toComplete string) ([]string, error)) completion {
	return func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		var r remote
		r.address, _ = cmd.Flags().GetString("address") // every verb that asks a server has it
		client, err := r.client(sh)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		offers, err := offer(ctx, client, toComplete)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return offers, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeItems offers the ids of the newest items that begin so.
func completeItems(sh *shell) completion {
	return asking(sh, func(ctx context.Context, service api.Service, toComplete string) ([]string, error) {
		page, err := service.Items(ctx, control.Query{Limit: control.MaxPage})
		var offers []string
		for _, item := range page.Items {
			if strings.HasPrefix(item.ID, toComplete) && len(offers) < completedItems {
				const taskWidth = 40
				offers = append(offers, item.ID+"\t"+string(item.State)+", "+short(item.Spec.Task, taskWidth))
			}
		}
		return offers, err
	})
}

// completeQueues offers the names of the queues.
func completeQueues(sh *shell) completion {
	return asking(sh, func(ctx context.Context, service api.Service, _ string) ([]string, error) {
		overview, err := service.Overview(ctx)
		var offers []string
		for _, queue := range overview.Queues {
			offers = append(offers, queue.Name)
		}
		return offers, err
	})
}

// completeWords offers words that are known.
func completeWords[S ~string](words []S) completion {
	offers := make([]string, len(words))
	for i, word := range words {
		offers[i] = string(word)
	}
	return cobra.FixedCompletions(offers, cobra.ShellCompDirectiveNoFileComp)
}

// completes has flags completed, those of them that the command has.
func completes(cmd *cobra.Command, sh *shell) {
	for name, offer := range map[string]completion{
		"queue": completeQueues(sh), "state": completeWords(work.States()), "reason": completeWords(work.Reasons()),
		"agent": completeWords(work.Agents()), "role": completeWords(work.Roles()), "sort": completeWords(control.Sorts()),
		"output": completeWords([]string{formatTable, formatJSON}),
	} {
		if cmd.Flags().Lookup(name) != nil {
			_ = cmd.RegisterFlagCompletionFunc(name, offer) // the flag is there, and has none yet
		}
	}
}
