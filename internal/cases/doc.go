// Command cases runs a table of cases, each of which is something that happened to users of agents, CI workers or git
// servers, against a drover that runs as a process: make cases.
//
// The drover is a drover dev with workers as plain processes, an embedded Nomad and a real Consul; the repositories are
// real ones, served over HTTP by git itself; pull requests go to a small forge that speaks GitHub's REST API. A case
// submits one item for a repository and a queue of its own, and compares the whole outcome: state, reasons, commits and files
// on the branch, tests, tokens and cost, retries, pull request.
//
// # Adding a row
//
// Rows are Go literals in rows_<part>.go; each file has one function that table in table.go lists. A row needs an ID,
// the Kind it is a member of, and the outcome that is Right. Each kind has at least three rows, two of them with
// Own set: found by us beside what was reported.
//
//	{
//		ID: "A4", Kind: "success and exit status 1",
//		Agent: agent{Kind: "claude-code", Script: `commit one`, Recording: "claude/success-result-exit1.jsonl", Exit: 1},
//		Right: outcome{
//			State: "completed", Reasons: reasons("completed"), Commits: []string{"one"}, Files: files{"work.txt": "one\n"},
//			PR: "created", CostUSD: 0.1,
//		},
//	}
//
// What a row can say of its input:
//
//   - Files: the first commit of the repository; Remote: a script that then prepares it, $1 is the bare repository;
//     PreReceive: the repository's pre-receive hook. input reads a recorded one from testdata.
//   - Agent: a kind of agent and a program in its place. The program runs Script in the tree, then prints Recording,
//     and exits with Exit. Script has these: commit SUBJECT appends a line to work.txt and commits everything; pushed
//     waits until the remote has HEAD; $REMOTE is the bare repository; $CASES is testdata (cat "$CASES/claude/x.jsonl");
//     $DROVER_ATTEMPT is the attempt's number, where attempts differ. A test command may name $CASES, too.
//   - Spec: fields of the item's specification, by their JSON names, that differ from those of every row. A drover
//     that doesn't know a field refuses the item, and the row is wrong there.
//   - Between: scripts as Remote; number n runs after attempt n has ended and before attempt n+1 sees the repository.
//   - Forge: prepares the forge for the row's repository.
//   - Meanwhile: a function that runs beside the item: it waits for conditions (r.await) and calls drover's API, as in
//     r.call(ctx, http.MethodPost, "/v1/items/"+r.id+"/cancel", nil, nil). The outcome is compared after it has returned.
//   - Config: HCL added to the server's configuration. Rows with the same Config share a drover.
//   - SubmitOnly: the item is checked and not stored (dry_run); Right has Refused, or nothing but what Also looks at.
//   - Within: the limit of a row that needs longer than DefaultWithin.
//
// What is left out of Right must be absent from the outcome, too: no commit, no file, no cost, no retry. An item that
// waits for longer than a retry takes has settled: Right has its state queued, and WaitUntil or WaitAbout. Sentence is
// a part of what the last attempt or the item says. Also returns faults that the fields can't express.
package main
