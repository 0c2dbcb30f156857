package main

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

func consumeScenarios() []scenario {
	return []scenario{
		{"push-concurrent", 50 * time.Second, pushConcurrent},
		{"push-orderly", 50 * time.Second, pushOrderly},
		{"push-tags", 50 * time.Second, pushTags},
		{"push-sql", 50 * time.Second, pushSQL},
		{"push-broadcast", 50 * time.Second, pushBroadcast},
		{"from-first", 50 * time.Second, fromFirst},
		{"from-last", 50 * time.Second, startsAtZero(consumer.ConsumeFromLastOffset)},
		{"from-timestamp", 50 * time.Second, startsAtZero(consumer.ConsumeFromTimestamp)},
		{"from-stored-offset", 50 * time.Second, fromStored},
		{"retry-then-success", 50 * time.Second, retryThenSuccess},
		{"retry-to-dlq", 50 * time.Second, retryToDlq},
		{"pull-by-offset", 30 * time.Second, pullByOffset},
		{"pull-stored-offset", 40 * time.Second, pullStored},
		{"offset-by-time", 30 * time.Second, offsetByTime},
	}
}

const patience = 25 * time.Second

func pushConcurrent(c *testCase) {
	topic := c.topic(4)
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept)
	sendNumbers(c.producer(), topic, 0, 100)
	b.awaitExactly(100, patience, time.Second)
	b.sameBodies(0, 100)
}

func sendSteps(c *testCase, topic string) {
	p := c.producer(toQueue())
	for step := 0; step < 10; step++ {
		for key := 0; key < 20; key++ {
			m := message(topic, fmt.Sprintf("%d %d", key, step))
			m.Queue = c.queue(topic, key%4)
			send(p, m)
		}
	}
}

func pushOrderly(c *testCase) {
	topic := c.topic(4)
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept, consumer.WithConsumerOrder(true))
	sendSteps(c, topic)
	next := map[string]int{}
	for _, m := range b.awaitExactly(200, patience, 500*time.Millisecond) {
		w := strings.Fields(string(m.Body))
		equal("step of key "+w[0], strconv.Itoa(next[w[0]]), w[1])
		next[w[0]]++
	}
}

func pushTags(c *testCase) {
	topic := c.topic(4)
	p := c.producer()
	wanted := map[string]bool{"BBBB": true}
	for i := 0; i < 40; i++ {
		tag := []string{"a", "b", "c", ""}[i%4]
		m := message(topic, tag+strconv.Itoa(i))
		if tag != "" {
			m.WithTag(tag)
		}
		send(p, m)
		if i%4 < 2 {
			wanted[string(m.Body)] = true
		}
	}
	// These two have the same hash: the server may pass both, the client must not.
	send(p, message(topic, "AaAa").WithTag("AaAa"))
	send(p, message(topic, "BBBB").WithTag("BBBB"))
	b := newInbox()
	c.push(c.name("group"), topic, tags("a || b || BBBB"), b.accept)
	b.awaitExactly(len(wanted), patience, time.Second)
	for body := range b.bodies() {
		check(wanted[body], "%s came unasked", body)
	}
}

func pushSQL(c *testCase) {
	topic := c.topic(4)
	p := c.producer()
	for i := 0; i < 40; i++ {
		m := message(topic, strconv.Itoa(i))
		m.WithProperty("number", strconv.Itoa(i))
		send(p, m)
	}
	b := newInbox()
	sql := consumer.MessageSelector{Type: consumer.SQL92, Expression: "number BETWEEN 10 AND 19"}
	c.push(c.name("group"), topic, sql, b.accept)
	b.awaitExactly(10, patience, time.Second)
	b.sameBodies(10, 20)
}

func pushBroadcast(c *testCase) {
	topic := c.topic(4)
	one, two := newInbox(), newInbox()
	for _, b := range []*inbox{one, two} {
		c.push(c.name("group"), topic, tags("*"), b.accept,
			consumer.WithConsumerModel(consumer.BroadCasting))
	}
	sendNumbers(c.producer(), topic, 0, 50)
	for _, b := range []*inbox{one, two} {
		b.awaitExactly(50, patience, 500*time.Millisecond)
		b.sameBodies(0, 50)
	}
}

func fromFirst(c *testCase) {
	topic := c.topic(4)
	sendNumbers(c.producer(), topic, 0, 20)
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept)
	b.awaitExactly(20, patience, 500*time.Millisecond)
	b.sameBodies(0, 20)
}

// startsAtZero: as long as a queue starts at 0 and its first message is still in memory, the broker
// tells a group without progress to start at 0, whatever the consumer would have chosen.
func startsAtZero(where consumer.ConsumeFromWhere) func(c *testCase) {
	return func(c *testCase) {
		topic := c.topic(4)
		p := c.producer()
		sendNumbers(p, topic, 0, 20)
		// Seen by a reader, so that the consumer cannot find the queues still empty.
		c.readAll(topic, 4, 20)
		b := newInbox()
		c.push(c.name("group"), topic, tags("*"), b.accept, consumer.WithConsumeFromWhere(where),
			consumer.WithConsumeTimestamp(time.Now().Format("20060102150405")))
		b.await(20, patience)
		sendNumbers(p, topic, 20, 30)
		b.awaitExactly(30, patience, 500*time.Millisecond)
		b.sameBodies(0, 30)
	}
}

func fromStored(c *testCase) {
	topic, group := c.topic(4), c.name("group")
	p := c.producer()
	before := newInbox()
	first := c.push(group, topic, tags("*"), before.accept)
	sendNumbers(p, topic, 0, 20)
	before.awaitExactly(20, patience, 300*time.Millisecond)
	must("shut down", first.Shutdown())
	sendNumbers(p, topic, 20, 30)
	after := newInbox()
	c.push(group, topic, tags("*"), after.accept)
	after.awaitExactly(10, patience, time.Second)
	after.sameBodies(20, 30)
}

// refusing listens, and refuses while the count of earlier deliveries is below the limit.
func (b *inbox) refusing(times int32) listener {
	return func(ctx context.Context, m ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		b.add(m...)
		if m[0].ReconsumeTimes >= times {
			return consumer.ConsumeSuccess, nil
		}
		if x, ok := primitive.GetConcurrentlyCtx(ctx); ok {
			x.DelayLevelWhenNextConsume = 1
		}
		return consumer.ConsumeRetryLater, nil
	}
}

// makeRetryTopic makes the retry topic of the group ahead: a client that was started before the
// broker made it takes up to 50 s to notice.
func makeRetryTopic(c *testCase) {
	c.server.makeTopic("%RETRY%"+c.name("group"), 1)
}

func retryThenSuccess(c *testCase) {
	topic := c.topic(1)
	makeRetryTopic(c)
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.refusing(2))
	m := message(topic, "again").WithTag("tag").WithKeys([]string{"key"})
	m.WithProperty("colour", "red")
	r := send(c.producer(), m)
	for i, got := range b.awaitExactly(3, 40*time.Second, 1500*time.Millisecond) {
		equal("count", int32(i), got.ReconsumeTimes)
		equal("topic shown", topic, got.Topic)
		equal("body", "again", string(got.Body))
		equal("tag", "tag", got.GetTags())
		equal("keys", "key", strings.TrimSpace(got.GetKeys()))
		equal("property", "red", got.GetProperty("colour"))
		equal("unique id", r.MsgID, got.MsgId)
		if i > 0 {
			gap := b.time(i).Sub(b.time(i - 1))
			check(gap >= 950*time.Millisecond, "delivery %d after %v, level 1 is 1 s", i, gap)
		}
	}
}

func retryToDlq(c *testCase) {
	topic := c.topic(1)
	makeRetryTopic(c)
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.refusing(99), consumer.WithMaxReconsumeTimes(2))
	r := send(c.producer(), message(topic, "dead"))
	for i, got := range b.awaitExactly(3, 40*time.Second, 2500*time.Millisecond) {
		equal("count", int32(i), got.ReconsumeTimes)
	}
	dead := c.readAll("%DLQ%"+c.name("group"), 1, 1)[0]
	equal("body", "dead", string(dead.Body))
	equal("original topic", topic, dead.GetProperty("RETRY_TOPIC"))
	equal("original id", r.OffsetMsgID, dead.GetProperty("ORIGIN_MESSAGE_ID"))
}

func pullByOffset(c *testCase) {
	topic := c.topic(1)
	p := c.producer()
	sendNumbers(p, topic, 0, 50)
	c.readAll(topic, 1, 50)
	reader := c.puller(topic)
	q := c.queue(topic, 0)
	pull := func(at int64, n int) *primitive.PullResult {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		r, err := reader.PullFrom(ctx, q, at, n)
		must("pull", err)
		return r
	}
	r := pull(10, 16)
	equal("status", primitive.PullFound, r.Status)
	equal("count", 16, len(r.GetMessageExts()))
	for i, m := range r.GetMessageExts() {
		equal("body", strconv.Itoa(10+i), string(m.Body))
	}
	equal("next", int64(26), r.NextBeginOffset)
	equal("min", int64(0), r.MinOffset)
	equal("max", int64(50), r.MaxOffset)
	beyond := pull(60, 16)
	equal("status beyond the end", primitive.PullOffsetIllegal, beyond.Status)
	equal("next beyond the end", int64(50), beyond.NextBeginOffset)
	// A pull at the end is held until something comes.
	held := make(chan *primitive.PullResult, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		r, _ := reader.PullFrom(ctx, q, 50, 16)
		held <- r
	}()
	select {
	case <-held:
		check(false, "the pull at the end came back at once")
	case <-time.After(time.Second):
	}
	send(p, message(topic, "now"))
	select {
	case r := <-held:
		check(r != nil && r.Status == primitive.PullFound, "the held pull failed: %v", r)
		equal("held pull", "now", string(r.GetMessageExts()[0].Body))
	case <-time.After(3 * time.Second):
		check(false, "the held pull did not come back")
	}
}

func pullStored(c *testCase) {
	topic := c.topic(1)
	sendNumbers(c.producer(), topic, 0, 10)
	stored := func() string {
		code, f := ask(c.server.broker, queryConsumerOffset, map[string]string{
			"topic": topic, "queueId": "0", "consumerGroup": c.name("puller")}, "")
		equal("answer to the offset query", 0, code)
		return f["offset"]
	}
	read := func(numbers string, n int, persist bool) {
		reader := c.puller(topic)
		var got bytes.Buffer
		for got.Len() < len(numbers) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			r, err := reader.Pull(ctx, n)
			cancel()
			must("pull", err)
			equal("status", primitive.PullFound, r.Status)
			for _, m := range r.GetMessageExts() {
				got.Write(m.Body)
			}
			if !persist {
				continue
			}
			// Only what a round of queue assignment gave to this consumer is persisted.
			next := strconv.FormatInt(r.NextBeginOffset, 10)
			until("offset "+next+" is stored", 30*time.Second, func() bool {
				// A round of assignment that comes after an update forgets it: the client's own race.
				must("update", reader.UpdateOffset(c.queue(topic, 0), r.NextBeginOffset))
				must("persist", reader.PersistOffset(context.Background(), topic))
				return stored() == next
			})
		}
		equal("bodies", numbers, got.String())
		must("shut down", reader.Shutdown())
	}
	read("0123", 4, true)
	// Without storing: this library does not sign off, so the queue may still count as the first's.
	read("456", 3, false)
}

func offsetByTime(c *testCase) {
	topic := c.topic(1)
	p := c.producer()
	for i := 0; i < 4; i++ {
		send(p, message(topic, strconv.Itoa(i)))
		// Distinct store times, so that each one has a single right answer.
		time.Sleep(15 * time.Millisecond)
	}
	at := func(ms int64) int64 {
		return c.server.offset(searchOffset, topic, 0,
			map[string]string{"timestamp": strconv.FormatInt(ms, 10)})
	}
	stored := c.readAll(topic, 1, 4)
	sort.Slice(stored, func(i, j int) bool { return stored[i].QueueOffset < stored[j].QueueOffset })
	equal("before all", int64(0), at(stored[0].StoreTimestamp-1000))
	for i, m := range stored {
		equal(fmt.Sprint("at the time of ", i), int64(i), at(m.StoreTimestamp))
	}
	equal("after all", int64(4), at(time.Now().UnixMilli()+60_000))
}

func timedScenarios() []scenario {
	return []scenario{
		{"long-poll-latency", 40 * time.Second, longPoll},
		{"delay-level-1", 40 * time.Second, delayLevel},
		{"error-unknown-topic", 40 * time.Second, unknownTopic},
	}
}

func longPoll(c *testCase) {
	topic := c.topic(1)
	p := c.producer()
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept)
	send(p, message(topic, "warm up"))
	b.await(1, patience)
	for i := 1; i <= 3; i++ {
		// By now the consumer's pull is held by the broker again.
		time.Sleep(500 * time.Millisecond)
		sent := time.Now()
		send(p, message(topic, "now"))
		b.await(i+1, 10*time.Second)
		took := b.time(i).Sub(sent)
		check(took < time.Second, "received %v after sending", took)
	}
}

func delayLevel(c *testCase) {
	topic := c.topic(1)
	p := c.producer()
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept)
	send(p, message(topic, "warm up"))
	b.await(1, patience)
	m := message(topic, "later").WithTag("tag").WithKeys([]string{"key"})
	m.WithDelayTimeLevel(1)
	sent := time.Now()
	send(p, m)
	got := b.awaitExactly(2, 10*time.Second, 300*time.Millisecond)[1]
	took := b.time(1).Sub(sent)
	check(took >= 999*time.Millisecond && took <= 3*time.Second, "received %v after sending", took)
	equal("body", "later", string(got.Body))
	equal("topic", topic, got.Topic)
	equal("keys", "key", strings.TrimSpace(got.GetKeys()))
}

// unknownTopic switches a setting of the whole broker, which no other scenario may see.
func unknownTopic(c *testCase) {
	p := c.producer()
	topic := c.name("unknown")
	c.server.brokerSetting("autoCreateTopicEnable=false")
	_, err := p.SendSync(context.Background(), message(topic, "x"))
	c.server.brokerSetting("autoCreateTopicEnable=true")
	refused("an unknown topic", 17, err)
	if _, err = p.SendSync(context.Background(), message(topic, "x")); err != nil {
		// The original has taken the right to inherit from its template topic, for good: it has to
		// be given back, which is allowed only while system topics are not protected.
		c.server.brokerSetting("validateSystemTopicWhenUpdateTopic=false")
		code, _ := ask(c.server.broker, updateTopic, map[string]string{"topic": "TBW102",
			"defaultTopic": "TBW102", "readQueueNums": "8", "writeQueueNums": "8", "perm": "7",
			"topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false"}, "")
		c.server.brokerSetting("validateSystemTopicWhenUpdateTopic=true")
		equal("answer to the template topic", 0, code)
		send(p, message(topic, "x"))
	}
	c.readAll(topic, 4, 1)
}
