package main

import "drover/internal/work"

// Kinds of cases about test reports.
const (
	kindForbidden = "JUnit report with what XML forbids"
	kindEncoding  = "JUnit report in another encoding"
	kindCut       = "report that can't be read whole"
	kindNotRun    = "tests that did not run"
	kindRerun     = "tests that are run again"
	kindPrivate   = "report that is private to the agent's user"
	kindEndless   = "go tests that never ended"
	kindPackage   = "go package that fails without a test"
	kindLookalike = "output that only looks like test results"
	kindTAP       = "TAP"
	kindTolerated = "failures that the test command ignores"
)

// reportRows are about what tests report.
func reportRows() []row {
	const (
		passed = work.TestPassed
		failed = work.TestFailed
		broken = work.TestError
	)
	return []row{
		junitRow("T1", kindForbidden, "cat $CASES/junit/raw-esc.xml >r.xml", tests{failed, 2, 1, "a two"}),
		junitRow("T1 charref", kindForbidden, "cat $CASES/junit/charref-esc.xml >r.xml", tests{failed, 2, 1, "a two"}),
		junitRow("T1 utf8", kindForbidden, "cat $CASES/junit/bad-utf8-name.xml >r.xml", tests{failed, 2, 1, "b"}),
		junitRow("T1 entity", kindForbidden, "cat $CASES/junit/html-entity.xml >r.xml", tests{failed, 1, 1, "b"}),
		own(junitRow("T1 ampersand", kindForbidden, `echo '<testsuite><testcase name="a"/><testcase name="b & c && d"><failure/></testcase></testsuite>' >r.xml`, tests{failed, 1, 1, "b & c && d"})),
		own(junitRow("T1 nul", kindForbidden, `printf '<testsuite><testcase name="a"/><testcase name="b"><failure>\000&#0;&#xFFFF;</failure></testcase></testsuite>' >r.xml`, tests{failed, 1, 1, "b"})),
		own(junitRow("T1 own entity", kindForbidden, `echo '<!DOCTYPE x [<!ENTITY y "z">]><testsuite><testcase name="a"/><testcase name="b"><failure>&y;&z;</failure></testcase></testsuite>' >r.xml`, tests{failed, 1, 1, "b"})),

		junitRow("T2", kindEncoding, "cat $CASES/junit/utf8-bom.xml >r.xml", tests{failed, 1, 1, "b"}),
		own(junitRow("T2 utf16", kindEncoding, "cat $CASES/own/utf16.xml >r.xml", tests{failed, 1, 1, "b"})),
		own(junitRow("T2 latin1", kindEncoding, `printf '<?xml version="1.0" encoding="iso-8859-1"?><testsuite><testcase name="\344"/><testcase name="b"><failure/></testcase></testsuite>' >r.xml`, tests{failed, 1, 1, "b"})),
		own(junitRow("T2 version", kindEncoding, `echo '<?xml version="1.1"?><testsuite><testcase name="a"/><testcase name="b"><failure/></testcase></testsuite>' >r.xml`, tests{failed, 1, 1, "b"})),

		junitRow("T6", kindCut, "cat $CASES/junit/truncated.xml >r.xml", tests{broken, 1, 1, "report r.xml: XML syntax error"}),
		own(junitRow("T6 empty", kindCut, ": >r.xml", tests{Status: broken, Says: "report r.xml: it is empty"})),
		own(junitRow("T6 none", kindCut, "true", tests{Status: broken, Says: "no JUnit report of this run matches r.xml"})),
		own(junitRow("T6 encoding", kindCut, `echo '<?xml version="1.0" encoding="x-own"?><testsuite/>' >r.xml`, tests{Status: broken, Says: `its encoding "x-own" is not known`})),
		own(junitRow("T6 claim", kindCut, `echo '<testsuite name="s" errors="1"><testcase name="a"/></testsuite>' >r.xml`, tests{broken, 1, 0, `the suite "s" counts 1 failures and lists none`})),

		junitRow("T3", kindNotRun, "cat $CASES/junit/gtest-disabled.xml >r.xml", tests{Status: passed, Passed: 1}),
		junitRow("T3 status", kindNotRun, "cat $CASES/junit/status-attr.xml >r.xml", tests{failed, 1, 2, "factorial c, factorial d"}),
		own(junitRow("T3 pytest", kindNotRun, "cat $CASES/junit/pytest.xml >r.xml", tests{failed, 1, 2, "t test_bad"})),
		own(junitRow("T3 ctest", kindNotRun, `echo '<testsuite disabled="1"><testcase name="a" status="run"/><testcase name="b" status="notrun"/><testcase name="c" status="fail"/></testsuite>' >r.xml`, tests{failed, 1, 1, "c"})),
		own(junitRow("T3 ignored", kindNotRun, `echo '<testsuite><testcase name="a"><ignored/></testcase><testcase name="b" result="SKIPPED"/><testcase name="c"/></testsuite>' >r.xml`, tests{Status: passed, Passed: 1})),

		junitRow("T4", kindRerun, "cat $CASES/junit/retry-two-testcases.xml >r.xml", tests{passed, 1, 0, "passed only when run again: acme.FlakyTest flaky()"}),
		printRow("T4 go", kindRerun, "cat $CASES/gotest/rerun-fails.jsonl", tests{passed, 1, 0, "passed only when run again: x TestFlaky"}),
		own(junitRow("T4 surefire", kindRerun, "cat $CASES/junit/surefire-flaky.xml >r.xml", tests{failed, 2, 1, "passed only when run again: MicrosoftTeamsCrudTest createWebhook"})),
		own(junitRow("T4 in vain", kindRerun, `echo '<testsuite name="s"><testcase name="a"><failure/></testcase><testcase name="a"><failure/></testcase></testsuite>' >r.xml`, tests{failed, 0, 1, "a"})),
		own(junitRow("T4 others", kindRerun, `echo '<testsuites><testsuite name="s"><testcase name="a"><failure/></testcase></testsuite><testsuite name="t"><testcase name="a"/></testsuite></testsuites>' >r.xml`, tests{failed, 1, 1, "s a"})),
		own(printRow("T4 go package", kindRerun, "cat $CASES/gotest/real-e.jsonl; echo '{\"Action\":\"start\",\"Package\":\"x/e\"}'; echo '{\"Action\":\"pass\",\"Package\":\"x/e\",\"Test\":\"T\"}'; echo '{\"Action\":\"pass\",\"Package\":\"x/e\"}'", tests{passed, 1, 0, ""})),

		junitRow("T5", kindPrivate, "mkdir closed; cat $CASES/junit/pytest.xml >r.xml; chmod 0600 r.xml; chmod 0 closed", tests{failed, 1, 2, "t test_bad"}),
		own(junitRow("T5 folder", kindPrivate, "umask 077; mkdir -p target; cat $CASES/junit/pytest.xml >target/r.xml", tests{failed, 1, 2, "t test_bad"}, "target/*.xml")),
		own(junitRow("T5 deep", kindPrivate, "umask 077; mkdir -p a/b; cat $CASES/junit/pytest.xml >a/b/r.xml", tests{failed, 1, 2, "t test_bad"}, "**/r.xml")),

		printRow("T9", kindEndless, "cat $CASES/gotest/real-a.jsonl; exit 1", tests{failed, 1, 1, "exit code 1"}),
		printRow("T9 exit", kindEndless, "cat $CASES/gotest/real-c.jsonl; exit 1", tests{failed, 0, 1, "exit code 1"}),
		printRow("T9 timeout", kindEndless, "cat $CASES/gotest/real-d.jsonl; exit 1", tests{failed, 1, 1, "exit code 1"}),
		own(printRow("T9 goroutine", kindEndless, "cat $CASES/gotest/panic-goroutine.jsonl; exit 1", tests{failed, 0, 1, "exit code 1"})),
		own(printRow("T9 cut", kindEndless, "head -n 6 $CASES/gotest/real-a.jsonl", tests{failed, 1, 1, "x/a TestPanicInGoroutine"})),
		own(printRow("T9 benchmark", kindEndless, `echo '{"Action":"run","Package":"x","Test":"TestA"}{"Action":"pass","Package":"x","Test":"TestA"}'; echo '{"Action":"run","Package":"x","Test":"BenchmarkX"}'; echo '{"Action":"pass","Package":"x"}'`, tests{Status: passed, Passed: 1})),

		own(printRow("T10 build", kindPackage, "cat $CASES/gotest/build-failure-1.24.jsonl; exit 1", tests{failed, 1, 1, "exit code 1"})),
		own(printRow("T10 setup", kindPackage, "cat $CASES/gotest/real-e.jsonl; exit 1", tests{failed, 0, 1, "exit code 1"})),
		own(printRow("T10 ignored", kindPackage, "cat $CASES/gotest/build-failure-1.24.jsonl", tests{failed, 1, 1, "x/b"})),

		own(printRow("T11 words", kindLookalike, "cat $CASES/tap/plain-output.txt", tests{Status: passed, Passed: 1})),
		own(printRow("T11 mixed", kindLookalike, "cat $CASES/gotest/interleaved.txt", tests{Status: passed, Passed: 3})),
		own(printRow("T11 go", kindLookalike, `printf 'ok  \texample.org/pkg\t0.1s\n--- FAIL: TestX (0.00s)\n'`, tests{Status: passed})),

		own(printRow("T12 node", kindTAP, "cat $CASES/tap/node-test.tap; exit 1", tests{failed, 1, 1, "exit code 1"})),
		own(printRow("T12 bail", kindTAP, "cat $CASES/tap/tap14-subtests.tap", tests{broken, 1, 1, "Bail out! database is gone"})),
		own(printRow("T12 plan", kindTAP, `printf '1..3\nok 1 - a\nok 2 - b # TODO\n'`, tests{broken, 1, 0, "3 tests are planned, and only 2 ran"})),
		own(printRow("T12 bats", kindTAP, `printf '1..2\nok 1 adds\nok 2 subtracts # skip\n'`, tests{Status: passed, Passed: 1})),

		own(junitRow("T13 junit", kindTolerated, "cat $CASES/junit/pytest.xml >r.xml || true", tests{failed, 1, 2, "the command ended well, but tests failed"})),
		own(printRow("T13 tap", kindTolerated, `printf '1..1\nnot ok 1 - a\n'`, tests{failed, 0, 1, "the command ended well, but tests failed: 1 a"})),
		own(printRow("T13 go", kindTolerated, `echo '{"Action":"fail","Package":"x","Test":"TestA"}'`, tests{failed, 0, 1, "the command ended well, but tests failed: x TestA"})),
	}
}

func own(r row) row {
	r.Own = true
	return r
}

// junitRow is an item whose tests write a report, r.xml if no pattern says otherwise.
func junitRow(id, kind, command string, right tests, pattern ...string) row {
	r := printRow(id, kind, command, right)
	junit := "r.xml"
	if len(pattern) > 0 {
		junit = pattern[0]
	}
	r.Spec["test"].(fields)["junit"] = junit
	return r
}

// printRow is an item whose agent makes a commit, and whose tests print something.
func printRow(id, kind, command string, right tests) row {
	return row{
		ID: id, Kind: kind, Agent: agent{Script: "commit one"}, Spec: fields{"test": fields{"command": command}},
		Right: outcome{
			State: work.StateCompleted, Reasons: reasons(work.ReasonCompleted), Commits: []string{"one"}, Files: files{"work.txt": "one\n"},
			Test: right, PR: work.PRCreated, Draft: right.Status != work.TestPassed,
		},
	}
}
