// historycheck judges histories of the crash suite with porcupine.
//
//	historycheck FILE...
//
// Each file has one event a line; docs/crash-suite.md describes them. A request is an object of its own whose
// operations must have an order that the model allows and that real time does not contradict:
//
//	enqueue    answered with 202: it is stored. Refused: it is not. Unknown: one of the two.
//	deliver    only what is stored is delivered, as often as it takes; with a 200 it is done.
//	drained    all queues were seen empty: what was stored is done.
//
// So a request that was acknowledged and not delivered before the queues were empty has no such order.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

type event struct {
	Time    int64  `json:"time_us"`
	Process string `json:"process"`
	Type    string `json:"type"`
	F       string `json:"f"`
	ID      string `json:"id"`
	Element string `json:"element"`
	Status  int    `json:"status"`
}

// What a request is, as far as anybody outside can know.
type state int

const (
	absent state = iota
	stored
	done
)

// The outcome is the event's type, and for deliveries "done" after a 200.
type operation struct{ f, outcome string }

var model = porcupine.NondeterministicModel{
	Init: func() []interface{} { return []interface{}{absent} },
	Step: func(now, input, _ interface{}) []interface{} {
		var next []interface{}
		for _, state := range step(now.(state), input.(operation)) {
			next = append(next, state)
		}
		return next
	},
}

func step(now state, op operation) []state {
	switch {
	case op.f == "enqueue" && now == absent && op.outcome == "ok":
		return []state{stored}
	case op.f == "enqueue" && now == absent && op.outcome == "fail":
		return []state{absent}
	case op.f == "enqueue" && now == absent:
		return []state{absent, stored}
	case op.f == "deliver" && now != absent && op.outcome == "done":
		return []state{done}
	case op.f == "deliver" && now != absent:
		return []state{now}
	case op.f == "drained" && now != stored:
		return []state{now}
	}
	return nil
}

func read(name string) ([]event, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var events []event
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, len(events)+1, err)
		}
		events = append(events, e)
	}
	return events, lines.Err()
}

// The operations of each request, in the order in which requests were first seen.
func operations(events []event) ([]string, map[string][]porcupine.Operation, error) {
	var ids []string
	all := map[string][]porcupine.Operation{}
	open := map[string]event{}
	end, drained := int64(0), int64(-1)
	for _, e := range events {
		end = max(end, e.Time)
		if e.F == "drained" {
			drained = e.Time
		}
	}
	if drained < 0 {
		return nil, nil, fmt.Errorf("the queues were never seen empty: nothing can be said of what is missing")
	}
	add := func(id string, begin, end int64, op operation) {
		all[id] = append(all[id], porcupine.Operation{Input: op, Call: begin, Return: end})
	}
	for _, e := range events {
		if e.F != "enqueue" && e.F != "deliver" {
			continue
		}
		if _, known := all[e.ID]; !known {
			ids = append(ids, e.ID)
			all[e.ID] = nil
		}
		key := e.F + " " + e.Process + " " + e.ID
		if e.Type == "invoke" {
			open[key] = e
			continue
		}
		begin, known := open[key]
		if !known {
			return nil, nil, fmt.Errorf("%s of %s by %s ends at %d and never began", e.F, e.ID, e.Process, e.Time)
		}
		delete(open, key)
		switch {
		case e.F == "deliver":
			// That the function was called is known from the moment on that it was.
			outcome := e.Type
			if e.Type == "ok" && e.Status == 200 {
				outcome = "done"
			}
			add(e.ID, begin.Time, begin.Time, operation{e.F, outcome})
		case e.Type == "info":
			// It may take effect after its caller has given up, but not after the queues were empty for good.
			add(e.ID, begin.Time, drained-1, operation{e.F, e.Type})
		default:
			add(e.ID, begin.Time, e.Time, operation{e.F, e.Type})
		}
	}
	// What never ended: its caller or the function was asked for it until the end.
	for _, begin := range open {
		last := drained - 1
		if begin.F == "deliver" {
			last = begin.Time
		}
		add(begin.ID, begin.Time, last, operation{begin.F, "info"})
	}
	for _, id := range ids {
		add(id, drained, end, operation{"drained", "ok"})
	}
	return ids, all, nil
}

func check(name string) (bool, error) {
	events, err := read(name)
	if err != nil {
		return false, err
	}
	ids, all, err := operations(events)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	sequential, good, count := model.ToModel(), true, 0
	for _, id := range ids {
		count += len(all[id])
		if porcupine.CheckOperationsTimeout(sequential, all[id], time.Minute) == porcupine.Ok {
			continue
		}
		good = false
		fmt.Printf("%s: no order explains %s:", name, id)
		for _, op := range all[id] {
			fmt.Printf(" %s %s [%d, %d]", op.Input.(operation).f, op.Input.(operation).outcome, op.Call, op.Return)
		}
		fmt.Println()
	}
	if good {
		fmt.Printf("%s: good: %d requests, %d operations\n", name, len(ids), count)
	}
	return good, nil
}

func main() {
	good := len(os.Args) > 1
	for _, name := range os.Args[1:] {
		ok, err := check(name)
		if err != nil {
			fmt.Println(err)
		}
		good = good && ok && err == nil
	}
	if !good {
		os.Exit(1)
	}
}
