package main

import (
	"bytes"
	"context"
	"math/rand"
	"strconv"
	"strings"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const bodyLimit = 4 * 1024 * 1024

func sendScenarios() []scenario {
	return []scenario{
		{"send-sync", 30 * time.Second, sendSync},
		{"send-async", 30 * time.Second, sendAsync},
		{"send-oneway", 30 * time.Second, sendOneway},
		{"send-batch", 30 * time.Second, sendBatch},
		{"send-keys", 30 * time.Second, sendKeys},
		{"send-selector", 30 * time.Second, sendSelector},
		{"send-auto-created-topic", 30 * time.Second, sendAutoCreated},
		{"text-everywhere", 40 * time.Second, textEverywhere},
		{"body-compressed", 40 * time.Second, bodyCompressed},
		{"body-limit", 40 * time.Second, bodyAtLimit},
		{"error-oversize", 40 * time.Second, oversize},
		{"error-bad-names", 40 * time.Second, badNames},
	}
}

func sendSync(c *testCase) {
	topic := c.topic(4)
	p := c.producer(toQueue())
	reader := c.puller(topic)
	for id := 0; id < 4; id++ {
		q := c.queue(topic, id)
		for i := 0; i < 3; i++ {
			n := strconv.Itoa(i)
			m := message(topic, "body "+n).WithTag("tag" + n).WithKeys([]string{"key" + n})
			m.WithProperty("number", n)
			m.Flag = int32(1000 + i)
			m.Queue = q
			r := send(p, m)
			equal("queue", id, r.MessageQueue.QueueId)
			equal("queue offset", int64(i), r.QueueOffset)
			until("stored", 5*time.Second, func() bool {
				return c.server.offset(maxOffset, topic, id, nil) == int64(i+1)
			})
			stored := c.read(reader, q)[i]
			equal("body", "body "+n, string(stored.Body))
			equal("tag", "tag"+n, stored.GetTags())
			equal("keys", "key"+n, strings.TrimSpace(stored.GetKeys()))
			equal("property", n, stored.GetProperty("number"))
			equal("flag", int32(1000+i), stored.Flag)
			equal("unique id", r.MsgID, stored.MsgId)
			equal("offset id", r.OffsetMsgID, stored.OffsetMsgId)
			equal("offset", int64(i), stored.QueueOffset)
			equal("times delivered before", int32(0), stored.ReconsumeTimes)
		}
	}
}

func sendAsync(c *testCase) {
	topic := c.topic(4)
	p := c.producer()
	const count = 50
	type answer struct {
		result *primitive.SendResult
		err    error
	}
	answers := make(chan answer, count)
	for i := 0; i < count; i++ {
		err := p.SendAsync(context.Background(),
			func(_ context.Context, r *primitive.SendResult, err error) { answers <- answer{r, err} },
			message(topic, strconv.Itoa(i)))
		must("send", err)
	}
	ids := map[string]bool{}
	end := time.After(15 * time.Second)
	for i := 0; i < count; i++ {
		select {
		case a := <-answers:
			must("callback", a.err)
			equal("status", primitive.SendOK, a.result.Status)
			ids[a.result.OffsetMsgID] = true
		case <-end:
			check(false, "%d callbacks missing", count-i)
		}
	}
	equal("different offset ids", count, len(ids))
	c.readAll(topic, 4, count)
}

func sendOneway(c *testCase) {
	topic := c.topic(4)
	p := c.producer()
	for i := 0; i < 20; i++ {
		must("send", p.SendOneWay(context.Background(), message(topic, strconv.Itoa(i))))
	}
	got := newInbox()
	got.add(c.readAll(topic, 4, 20)...)
	got.sameBodies(0, 20)
}

func sendBatch(c *testCase) {
	topic := c.topic(2)
	p := c.producer(toQueue())
	q := c.queue(topic, 1)
	to := func(m *primitive.Message) *primitive.Message { m.Queue = q; return m }
	send(p, to(message(topic, "before")))
	var batch []*primitive.Message
	for i := 0; i < 10; i++ {
		n := strconv.Itoa(i)
		m := message(topic, "batch "+n).WithTag("t" + strconv.Itoa(i%2)).WithKeys([]string{"k" + n})
		m.WithProperty("number", n)
		batch = append(batch, to(m))
	}
	r := send(p, batch...)
	// A batch goes where its own, empty, queue field leads: the selector sees no wish and takes any.
	q = r.MessageQueue
	first := r.QueueOffset
	after := send(p, to(message(topic, "after")))
	equal("offset after the batch", first+10, after.QueueOffset)
	// The library gives the batch an id, not its messages: only the offset ids tell them apart.
	offsetIds := strings.Split(r.OffsetMsgID, ",")
	equal("offset ids", 10, len(offsetIds))
	until("stored", 5*time.Second, func() bool {
		return c.server.offset(maxOffset, topic, q.QueueId, nil) == first+11
	})
	stored := c.read(c.puller(topic), q)[first:]
	for i := 0; i < 10; i++ {
		n := strconv.Itoa(i)
		equal("body", "batch "+n, string(stored[i].Body))
		equal("offset", first+int64(i), stored[i].QueueOffset)
		equal("offset id", offsetIds[i], stored[i].OffsetMsgId)
		equal("tag", "t"+strconv.Itoa(i%2), stored[i].GetTags())
		equal("keys", "k"+n, strings.TrimSpace(stored[i].GetKeys()))
		equal("property", n, stored[i].GetProperty("number"))
	}
}

func sendKeys(c *testCase) {
	topic := c.topic(4)
	m := message(topic, "keyed").WithKeys([]string{"first", "second", "third"})
	send(c.producer(), m)
	found := c.readAll(topic, 4, 1)[0]
	equal("keys", "first second third", strings.TrimSpace(found.GetKeys()))
}

func sendSelector(c *testCase) {
	topic := c.topic(4)
	p := c.producer(producer.WithQueueSelector(producer.NewHashQueueSelector()))
	queueOf := map[string]int{}
	for i := 0; i < 24; i++ {
		key := "order-" + strconv.Itoa(i%12)
		r := send(p, message(topic, key).WithShardingKey(key))
		if id, known := queueOf[key]; known {
			equal("queue of "+key, id, r.MessageQueue.QueueId)
		}
		queueOf[key] = r.MessageQueue.QueueId
	}
	for _, m := range c.readAll(topic, 4, 24) {
		equal("stored queue", queueOf[string(m.Body)], m.Queue.QueueId)
		equal("sharding key", string(m.Body), m.GetShardingKey())
	}
}

func sendAutoCreated(c *testCase) {
	topic := c.name("")
	sendNumbers(c.producer(), topic, 0, 8)
	got := newInbox()
	got.add(c.readAll(topic, 4, 8)...)
	got.sameBodies(0, 8)
}

func textEverywhere(c *testCase) {
	topic := c.topic(1)
	p := c.producer()
	text := "消息队列 Grüße こんにちは привет 🚀 \x00 end"
	m := message(topic, text).WithTag("标签").WithKeys([]string{"钥匙"})
	m.WithProperty("属性", "值 with blanks, = and : and 🚀")
	send(p, m)
	noText := []byte{0, 0xff, 1, 0x80}
	send(p, primitive.NewMessage(topic, noText))
	found := c.readAll(topic, 1, 2)
	equal("body", text, string(found[0].Body))
	equal("tag", "标签", found[0].GetTags())
	equal("keys", "钥匙", strings.TrimSpace(found[0].GetKeys()))
	equal("property", "值 with blanks, = and : and 🚀", found[0].GetProperty("属性"))
	check(bytes.Equal(noText, found[1].Body), "bytes that are no text")
	// No tag in the subscription: the library hashes tags by bytes, the server by UTF-16 units.
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept)
	b.await(2, 25*time.Second)
	check(b.bodies()[text], "the text was not consumed")
}

func bodyCompressed(c *testCase) {
	topic := c.topic(1)
	body := strings.Repeat("all work and no play ", 3000)
	send(c.producer(), message(topic, body))
	b := newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept)
	m := b.await(1, 25*time.Second)[0]
	equal("body", body, string(m.Body))
	check(m.StoreSize < 30_000, "stored size %d", m.StoreSize)
}

func noise(size int) []byte {
	b := make([]byte, size)
	rand.New(rand.NewSource(int64(size))).Read(b)
	return b
}

// uncompressed leaves bodies as they are; this library has no limit of its own.
func uncompressed() producer.Option {
	return producer.WithCompressMsgBodyOverHowmuch(2 * bodyLimit)
}

func bodyAtLimit(c *testCase) {
	topic := c.topic(1)
	body := noise(bodyLimit)
	send(c.producer(uncompressed()), primitive.NewMessage(topic, body))
	check(bytes.Equal(body, c.readAll(topic, 1, 1)[0].Body), "a body of 4 MiB comes back equal")
}

// refused checks the code: the library passes it on as text only.
func refused(what string, code int, err error) {
	check(err != nil, "%s was accepted", what)
	check(strings.Contains(err.Error(), "CODE: "+strconv.Itoa(code)), "%s: expected code %d, got %v",
		what, code, err)
}

func oversize(c *testCase) {
	topic := c.topic(1)
	p := c.producer(uncompressed(), producer.WithRetry(0))
	_, err := p.SendSync(context.Background(), primitive.NewMessage(topic, noise(bodyLimit+1)))
	refused("a body of 4 MiB and one byte", 13, err)
	// The connection must have survived.
	send(p, message(topic, "fine"))
	c.readAll(topic, 1, 1)
}

func badNames(c *testCase) {
	p := c.producer(producer.WithRetry(0))
	// Unlike the Java client this one asks the server.
	for topic, code := range map[string]int{
		"bad topic": 29, "bad.topic": 29, strings.Repeat("t", 128): 29, "SCHEDULE_TOPIC_XXXX": 16,
	} {
		_, err := p.SendSync(context.Background(), message(topic, "x"))
		refused("topic '"+topic+"'", code, err)
	}
	_, err := p.SendSync(context.Background(), message("", "x"))
	check(err != nil, "an empty topic was accepted")
}
