// Package tap prints test results in the Test Anything Protocol, version 13, through the interface that the validation programs of runtime-tools
// know from github.com/mndrix/tap-go.
package tap

import (
	"encoding/json"
	"fmt"
	"strings"
)

// T counts the results of one program.
type T struct {
	last *int
	todo bool
}

func New() *T { return &T{last: new(int)} }

// Todo is for results that are known to fail.
func (t *T) Todo() *T { return &T{last: t.last, todo: true} }

// Header begins the output. A plan of none is one that AutoPlan prints at the end.
func (t *T) Header(plan int) {
	fmt.Println("TAP version 13")
	if plan > 0 {
		fmt.Printf("1..%d\n", plan)
	}
}

func (t *T) AutoPlan() { fmt.Printf("1..%d\n", *t.last) }

func (t *T) Ok(passed bool, what string) {
	result, mark := "ok", "-"
	if !passed {
		result = "not ok"
	}
	if t.todo {
		mark = "# TODO"
	}
	*t.last++
	fmt.Printf("%s %d %s %s\n", result, *t.last, mark, what)
}

func (t *T) Pass(what string) { t.Ok(true, what) }

func (t *T) Fail(what string) { t.Ok(false, what) }

func (t *T) Skip(count int, why string) {
	for ; count > 0; count-- {
		*t.last++
		fmt.Printf("ok %d # SKIP %s\n", *t.last, why)
	}
}

func (t *T) Diagnostic(text string) { fmt.Println("# " + strings.ReplaceAll(text, "\n", "\n# ")) }

func (t *T) Diagnosticf(format string, args ...interface{}) { t.Diagnostic(fmt.Sprintf(format, args...)) }

// YAML adds details to the last result. JSON is YAML.
func (t *T) YAML(details interface{}) error {
	text, err := json.MarshalIndent(details, "  ", "  ")
	if err == nil {
		fmt.Printf("  ---\n  %s\n  ...\n", text)
	}
	return err
}
