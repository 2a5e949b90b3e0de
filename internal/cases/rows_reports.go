package main

// reportRows are about what tests report.
func reportRows() []row {
	return []row{
		junitRow("T1", "raw-esc.xml", 2, 1),
		own(junitRow("T1a", "charref-esc.xml", 2, 1)),
		own(junitRow("T1b", "html-entity.xml", 1, 1)),
	}
}

func own(r row) row {
	r.Own = true
	return r
}

// junitRow is an item whose tests write a recorded report and exit with 0.
func junitRow(id, report string, passed, failed int) row {
	r := row{
		ID: id, Kind: "JUnit report that is no proper XML",
		Agent: agent{Script: "commit one"},
		Spec:  fields{"test": fields{"command": "cat $CASES/junit/" + report + " >report.xml", "junit": "report.xml"}},
		Right: outcome{
			State: "completed", Reasons: reasons("completed"), Commits: []string{"one"}, Files: files{"work.txt": "one\n"},
			Test: tests{Status: "passed", Passed: passed, Failed: failed}, PR: "created",
		},
	}
	if failed > 0 {
		r.Right.Test.Status, r.Right.Draft = "failed", true
	}
	return r
}
