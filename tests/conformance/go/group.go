package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

func groupScenarios() []scenario {
	return []scenario{{"rebalance-with-crash", 100 * time.Second, rebalance}}
}

// rebalance: members of a group come, and one crashes; nothing may be lost.
func rebalance(c *testCase) {
	topic, group := c.topic(8), c.name("group")
	p := c.producer()
	one, two, crashed := newInbox(), newInbox(), newInbox()
	c.push(group, topic, tags("*"), one.accept)
	sendNumbers(p, topic, 0, 100)
	one.await(50, patience)
	c.push(group, topic, tags("*"), two.accept)
	process := exec.Command(os.Args[0], "victim", topic, group)
	pipe, err := process.StdoutPipe()
	must("pipe", err)
	must("start victim", process.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "got ") {
				body := strings.TrimPrefix(lines.Text(), "got ")
				crashed.add(&primitive.MessageExt{Message: primitive.Message{Body: []byte(body)}})
			}
		}
	}()
	defer process.Process.Kill()
	sent := 100
	// Goes on sending until all three have got some, so that each one owned queues.
	end := time.Now().Add(45 * time.Second)
	for sent < 300 || len(two.all()) < 5 || len(crashed.all()) < 5 {
		check(time.Now().Before(end), "second got %d, victim got %d", len(two.all()),
			len(crashed.all()))
		sendNumbers(p, topic, sent, sent+10)
		sent += 10
		time.Sleep(20 * time.Millisecond)
	}
	must("kill -9", process.Process.Kill())
	sendNumbers(p, topic, sent, sent+100)
	sent += 100
	<-read
	_ = process.Wait()
	until(fmt.Sprintf("all %d messages consumed", sent), 40*time.Second, func() bool {
		got := one.bodies()
		for _, b := range []*inbox{two, crashed} {
			for body := range b.bodies() {
				got[body] = true
			}
		}
		return len(got) == sent
	})
}

// victim is a consumer in a process of its own, which tells what it has got until it is killed.
func victim(topic, group string) {
	c, err := rocketmq.NewPushConsumer(
		consumer.WithNsResolver(primitive.NewPassthroughResolver([]string{need("NAMESRV_ADDR")})),
		consumer.WithGroupName(group), consumer.WithInstance("victim"),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	must("new consumer", err)
	must("subscribe", c.Subscribe(topic, tags("*"),
		func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			// Told before it is acknowledged: what is not told must come to somebody else.
			for _, m := range messages {
				fmt.Printf("got %s\n", m.Body)
			}
			return consumer.ConsumeSuccess, nil
		}))
	must("start", c.Start())
	// An end of its own, in case nobody kills it.
	time.Sleep(120 * time.Second)
	os.Exit(1)
}

func outageScenarios() []scenario {
	return []scenario{
		{"push-orderly-restart", 150 * time.Second, orderlyRestart},
		{"broker-killed", 150 * time.Second, brokerKilled},
	}
}

// insist tries until the message is accepted: a try that failed may have stored it all the same.
func insist(p rocketmq.Producer, m *primitive.Message) {
	end := time.Now().Add(120 * time.Second)
	for {
		r, err := p.SendSync(context.Background(), m)
		if err == nil && r.Status == primitive.SendOK {
			return
		}
		check(time.Now().Before(end), "still not accepted: %v", err)
		time.Sleep(100 * time.Millisecond)
	}
}

func outage(variable string) chan error {
	done := make(chan error, 1)
	go func() { done <- shell(variable, 120*time.Second) }()
	return done
}

func orderlyRestart(c *testCase) {
	topic := c.topic(4)
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept, consumer.WithConsumerOrder(true))
	p := c.producer(toQueue(), producer.WithSendMsgTimeout(3*time.Second))
	queues := []*primitive.MessageQueue{}
	for id := 0; id < 4; id++ {
		queues = append(queues, c.queue(topic, id))
	}
	var done chan error
	for step := 0; step < 10; step++ {
		if step == 5 {
			b.await(60, patience)
			done = outage("RESTART_BROKER")
		}
		for key := 0; key < 20; key++ {
			m := message(topic, fmt.Sprintf("%d %d", key, step))
			m.Queue = queues[key%4]
			insist(p, m)
		}
	}
	must("RESTART_BROKER", <-done)
	until("all 200 received", 60*time.Second, func() bool { return len(b.bodies()) == 200 })
	// Repeats are allowed, but nothing may be passed over: each step at most one ahead.
	seen := map[string]int{}
	for _, m := range b.all() {
		w := strings.Fields(string(m.Body))
		step, err := strconv.Atoi(w[1])
		must("step", err)
		check(step <= seen[w[0]], "key %s: step %d when %d was due", w[0], step, seen[w[0]])
		if step == seen[w[0]] {
			seen[w[0]]++
		}
	}
}

func brokerKilled(c *testCase) {
	topic := c.topic(4)
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept)
	p := c.producer(producer.WithSendMsgTimeout(3 * time.Second))
	var done chan error
	ended := false
	sent := 0
	// Every message that was acknowledged must arrive, those just before the kill as well.
	for sent < 300 || !ended {
		if sent == 200 {
			done = outage("KILL_BROKER")
		}
		insist(p, message(topic, strconv.Itoa(sent)))
		sent++
		if sent > 250 {
			time.Sleep(10 * time.Millisecond)
			select {
			case err := <-done:
				must("KILL_BROKER", err)
				ended = true
			default:
			}
		}
	}
	until(fmt.Sprintf("all %d received", sent), 60*time.Second,
		func() bool { return len(b.bodies()) == sent })
}
