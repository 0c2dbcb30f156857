// Command conformance runs the scenario list with the Go client against the server named by the
// environment, judges the results and prints one line per scenario.
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

const label = "go-2.1.2"

// atOnce is how many scenarios run side by side: most of them only wait.
const atOnce = 8

type scenario struct {
	name  string
	limit time.Duration
	body  func(c *testCase)
}

// wrong is what a failed expectation panics with.
type wrong string

func main() {
	rlog.SetLogLevel("fatal")
	if len(os.Args) > 1 && os.Args[1] == "victim" {
		victim(os.Args[2], os.Args[3])
		return
	}
	s := newServer()
	var together, alone []scenario
	together = append(together, groupScenarios()...)
	together = append(together, sendScenarios()...)
	together = append(together, consumeScenarios()...)
	together = append(together, transactionScenarios()...)
	alone = append(alone, timedScenarios()...)
	alone = append(alone, outageScenarios()...)
	if only := os.Getenv("ONLY"); only != "" {
		together, alone = matching(together, only), matching(alone, only)
	}
	failed := runAll(s, together, atOnce) + runAll(s, alone, 1)
	fmt.Printf("%s: %d passed, %d failed\n", label, len(together)+len(alone)-failed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func matching(list []scenario, only string) []scenario {
	var kept []scenario
	whole := regexp.MustCompile("^(?:" + only + ")$")
	for _, s := range list {
		if whole.MatchString(s.name) {
			kept = append(kept, s)
		}
	}
	return kept
}

func runAll(s *server, list []scenario, atOnce int) int {
	turns := make(chan struct{}, atOnce)
	var wait sync.WaitGroup
	var lock sync.Mutex
	failed := 0
	for _, one := range list {
		turns <- struct{}{}
		wait.Add(1)
		go func(one scenario) {
			defer func() { <-turns; wait.Done() }()
			begin := time.Now()
			failure := runOne(s, one)
			lock.Lock()
			defer lock.Unlock()
			if failure == "" {
				fmt.Printf("case %s %s ok %d\n", label, one.name, time.Since(begin).Milliseconds())
			} else {
				failed++
				fmt.Printf("case %s %s FAILED %s\n", label, one.name, failure)
			}
		}(one)
	}
	wait.Wait()
	return failed
}

func runOne(s *server, one scenario) string {
	c := &testCase{server: s, title: one.name}
	done := make(chan string, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				text := strings.Join(strings.Fields(fmt.Sprint(r)), " ")
				if len(text) > 300 {
					text = text[:300]
				}
				if text == "" {
					text = "panic"
				}
				done <- text
			}
		}()
		one.body(c)
		done <- ""
	}()
	// The clients are shut down beside the next scenario: one that hangs holds nobody up.
	defer func() { go c.close() }()
	select {
	case failure := <-done:
		return failure
	case <-time.After(one.limit):
		return fmt.Sprintf("no end within %v", one.limit)
	}
}

func check(ok bool, format string, args ...interface{}) {
	if !ok {
		panic(wrong(fmt.Sprintf(format, args...)))
	}
}

func equal(what string, expected, actual interface{}) {
	check(expected == actual, "%s: expected %v, got %v", what, expected, actual)
}

func must(what string, err error) {
	check(err == nil, "%s: %v", what, err)
}

// until asks again and again; for states that no event tells of.
func until(what string, limit time.Duration, condition func() bool) {
	end := time.Now().Add(limit)
	for !condition() {
		check(time.Now().Before(end), "not within %v: %s", limit, what)
		time.Sleep(30 * time.Millisecond)
	}
}
