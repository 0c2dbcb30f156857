package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// testCase is what one scenario works with: names of its own, and clients that are shut down at
// its end.
type testCase struct {
	server    *server
	title     string
	lock      sync.Mutex
	closers   []func() error
	instances int
}

func (c *testCase) name(suffix string) string {
	if suffix != "" {
		suffix = "-" + suffix
	}
	return c.server.run + "-" + c.title + suffix
}

func (c *testCase) topic(queues int) string {
	c.server.makeTopic(c.name(""), queues)
	return c.name("")
}

// instance gives every client object a connection of its own, as separate programs would have.
func (c *testCase) instance() string {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.instances++
	return c.name("i" + strconv.Itoa(c.instances))
}

func (c *testCase) atEnd(closer func() error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.closers = append(c.closers, closer)
}

func (c *testCase) close() {
	c.lock.Lock()
	closers := c.closers
	c.closers = nil
	c.lock.Unlock()
	for i := len(closers) - 1; i >= 0; i-- {
		_ = closers[i]()
	}
}

func (c *testCase) producer(options ...producer.Option) rocketmq.Producer {
	p, err := rocketmq.NewProducer(append([]producer.Option{
		producer.WithNsResolver(c.server.resolver()),
		producer.WithGroupName(c.name("producer")),
		producer.WithInstanceName(c.instance()),
		producer.WithSendMsgTimeout(10 * time.Second),
	}, options...)...)
	must("new producer", err)
	must("start producer", p.Start())
	c.atEnd(p.Shutdown)
	return p
}

// toQueue makes a producer send to the queue that each message names.
func toQueue() producer.Option {
	return producer.WithQueueSelector(producer.NewManualQueueSelector())
}

func (c *testCase) queue(topic string, id int) *primitive.MessageQueue {
	return &primitive.MessageQueue{Topic: topic, BrokerName: c.brokerName(), QueueId: id}
}

// brokerName is told by a send result: nothing else in the library tells it.
func (c *testCase) brokerName() string {
	c.server.nameOnce.Do(func() {
		topic := c.server.run + "-broker-name"
		c.server.makeTopic(topic, 1)
		r, err := c.producer().SendSync(context.Background(), message(topic, "x"))
		must("send", err)
		c.server.brokerName = r.MessageQueue.BrokerName
	})
	return c.server.brokerName
}

type listener func(context.Context, ...*primitive.MessageExt) (consumer.ConsumeResult, error)

func (c *testCase) push(group, topic string, sel consumer.MessageSelector, l listener,
	options ...consumer.Option) rocketmq.PushConsumer {
	p, err := c.newPush(group, topic, sel, l, options...)
	must("new consumer", err)
	must("start consumer", p.Start())
	c.atEnd(p.Shutdown)
	return p
}

func (c *testCase) newPush(group, topic string, sel consumer.MessageSelector, l listener,
	options ...consumer.Option) (rocketmq.PushConsumer, error) {
	p, err := rocketmq.NewPushConsumer(append([]consumer.Option{
		consumer.WithNsResolver(c.server.resolver()),
		consumer.WithGroupName(group),
		consumer.WithInstance(c.instance()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	}, options...)...)
	if err != nil {
		return nil, err
	}
	return p, p.Subscribe(topic, sel, l)
}

func tags(expression string) consumer.MessageSelector {
	return consumer.MessageSelector{Type: consumer.TAG, Expression: expression}
}

func (c *testCase) puller(topic string) rocketmq.PullConsumer {
	p, err := rocketmq.NewPullConsumer(consumer.WithNsResolver(c.server.resolver()),
		consumer.WithGroupName(c.name("puller")), consumer.WithInstance(c.instance()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	must("new pull consumer", err)
	must("subscribe", p.Subscribe(topic, tags("*")))
	must("start pull consumer", p.Start())
	c.atEnd(p.Shutdown)
	return p
}

func message(topic, body string) *primitive.Message {
	return primitive.NewMessage(topic, []byte(body))
}

func send(p rocketmq.Producer, m ...*primitive.Message) *primitive.SendResult {
	r, err := p.SendSync(context.Background(), m...)
	must("send", err)
	equal("status", primitive.SendOK, r.Status)
	return r
}

func sendNumbers(p rocketmq.Producer, topic string, from, to int) {
	for i := from; i < to; i++ {
		send(p, message(topic, strconv.Itoa(i)))
	}
}

// read returns everything that a queue holds. A pull at the end would be held by the broker, so
// the end is asked for first.
func (c *testCase) read(p rocketmq.PullConsumer,
	q *primitive.MessageQueue) []*primitive.MessageExt {
	end := c.server.offset(maxOffset, q.Topic, q.QueueId, nil)
	var found []*primitive.MessageExt
	for at := int64(0); at < end; {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		r, err := p.PullFrom(ctx, q, at, 32)
		cancel()
		must("pull", err)
		equal("pull status", primitive.PullFound, r.Status)
		found = append(found, r.GetMessageExts()...)
		at = r.NextBeginOffset
	}
	return found
}

// readAll returns everything that a topic holds, once there is as much as expected.
func (c *testCase) readAll(topic string, queues, count int) []*primitive.MessageExt {
	total := func() (n int) {
		for q := 0; q < queues; q++ {
			n += int(c.server.offset(maxOffset, topic, q, nil))
		}
		return n
	}
	until(fmt.Sprintf("%d messages in %s", count, topic), 10*time.Second,
		func() bool { return total() >= count })
	equal("messages in "+topic, count, total())
	p := c.puller(topic)
	var found []*primitive.MessageExt
	for q := 0; q < queues; q++ {
		found = append(found, c.read(p, c.queue(topic, q))...)
	}
	equal("messages read from "+topic, count, len(found))
	return found
}

// inbox collects what consumers receive.
type inbox struct {
	lock  sync.Mutex
	got   []*primitive.MessageExt
	times []time.Time
	// news holds a token whenever something came since the last look.
	news chan struct{}
}

func newInbox() *inbox {
	return &inbox{news: make(chan struct{}, 1)}
}

func (b *inbox) add(messages ...*primitive.MessageExt) {
	b.lock.Lock()
	for _, m := range messages {
		b.got = append(b.got, m)
		b.times = append(b.times, time.Now())
	}
	b.lock.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

func (b *inbox) accept(_ context.Context,
	m ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
	b.add(m...)
	return consumer.ConsumeSuccess, nil
}

func (b *inbox) all() []*primitive.MessageExt {
	b.lock.Lock()
	defer b.lock.Unlock()
	return append([]*primitive.MessageExt(nil), b.got...)
}

func (b *inbox) time(i int) time.Time {
	b.lock.Lock()
	defer b.lock.Unlock()
	return b.times[i]
}

// await waits for at least so many.
func (b *inbox) await(count int, limit time.Duration) []*primitive.MessageExt {
	end := time.After(limit)
	for {
		if l := b.all(); len(l) >= count {
			return l
		}
		select {
		case <-b.news:
		case <-end:
			check(len(b.all()) >= count, "received %d of %d in %v", len(b.all()), count, limit)
		}
	}
}

// awaitExactly waits for so many; one more within the quiet time after them is an error.
func (b *inbox) awaitExactly(count int, limit, quiet time.Duration) []*primitive.MessageExt {
	b.await(count, limit)
	end := time.After(quiet)
	for {
		equal("number of messages", count, len(b.all()))
		select {
		case <-b.news:
		case <-end:
			return b.all()
		}
	}
}

func (b *inbox) bodies() map[string]bool {
	set := map[string]bool{}
	for _, m := range b.all() {
		set[string(m.Body)] = true
	}
	return set
}

// sameBodies checks that exactly the numbers from..to-1 came.
func (b *inbox) sameBodies(from, to int) {
	set := b.bodies()
	for i := from; i < to; i++ {
		check(set[strconv.Itoa(i)], "message %d is missing", i)
	}
	equal("different bodies", to-from, len(set))
}
