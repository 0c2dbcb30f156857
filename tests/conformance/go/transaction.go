package main

import (
	"context"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

func transactionScenarios() []scenario {
	return []scenario{
		{"transaction-commit-rollback", 60 * time.Second, transactionEnds},
		{"transaction-check-back", 90 * time.Second, transactionCheckBack},
	}
}

// decider decides by the first letter of the body: c, r or u.
type decider struct {
	// atOnce tells whether the local transaction decides, or leaves it to the question.
	atOnce bool
	lock   sync.Mutex
	asked  map[string]*primitive.MessageExt
}

func stateOf(body []byte) primitive.LocalTransactionState {
	switch body[0] {
	case 'c':
		return primitive.CommitMessageState
	case 'r':
		return primitive.RollbackMessageState
	}
	return primitive.UnknowState
}

func (d *decider) ExecuteLocalTransaction(m *primitive.Message) primitive.LocalTransactionState {
	if d.atOnce {
		return stateOf(m.Body)
	}
	return primitive.UnknowState
}

func (d *decider) CheckLocalTransaction(m *primitive.MessageExt) primitive.LocalTransactionState {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.asked[string(m.Body)] = m
	return stateOf(m.Body)
}

func (c *testCase) transactionProducer(d *decider) rocketmq.TransactionProducer {
	p, err := rocketmq.NewTransactionProducer(d,
		producer.WithNsResolver(c.server.resolver()),
		producer.WithGroupName(c.name("producer")),
		producer.WithInstanceName(c.instance()),
		producer.WithSendMsgTimeout(10*time.Second))
	must("new transaction producer", err)
	must("start producer", p.Start())
	c.atEnd(p.Shutdown)
	return p
}

func sendInTransaction(p rocketmq.TransactionProducer, topic, body string) {
	m := message(topic, body).WithTag("tag").WithKeys([]string{"key-" + body})
	r, err := p.SendMessageInTransaction(context.Background(), m)
	must("send in transaction", err)
	equal("status", primitive.SendOK, r.Status)
}

func transactionEnds(c *testCase) {
	topic, b := c.topic(1), newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept)
	p := c.transactionProducer(&decider{atOnce: true, asked: map[string]*primitive.MessageExt{}})
	for _, body := range []string{"c1", "r1", "c2", "r2"} {
		sendInTransaction(p, topic, body)
	}
	for _, m := range b.awaitExactly(2, patience, 3*time.Second) {
		check(m.Body[0] == 'c', "%s is visible", m.Body)
		equal("tags", "tag", m.GetTags())
		equal("keys", "key-"+string(m.Body), m.GetKeys())
	}
}

func transactionCheckBack(c *testCase) {
	topic, b := c.topic(1), newInbox()
	c.push(c.name("group"), topic, tags("*"), b.accept)
	d := &decider{asked: map[string]*primitive.MessageExt{}}
	p := c.transactionProducer(d)
	begin := time.Now()
	for _, body := range []string{"c1", "r1", "c2"} {
		sendInTransaction(p, topic, body)
	}
	for _, m := range b.awaitExactly(2, 40*time.Second, 3*time.Second) {
		check(m.Body[0] == 'c', "%s is visible", m.Body)
	}
	check(b.time(0).Sub(begin) >= 2*time.Second, "asked before its time")
	d.lock.Lock()
	defer d.lock.Unlock()
	equal("asked about", 3, len(d.asked))
	equal("topic of a question", topic, d.asked["c1"].Topic)
	equal("keys of a question", "key-c1", d.asked["c1"].GetKeys())
}
