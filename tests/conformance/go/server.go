package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// Codes of the protocol that the client library does not export.
const (
	queryConsumerOffset = 14
	updateTopic         = 17
	updateBrokerConfig  = 25
	searchOffset        = 29
	maxOffset           = 30
	getRoute            = 105
)

// server is the one under test: its addresses, the means to prepare it, the names of this run.
type server struct {
	namesrv, broker, run string
	brokerName           string
	nameOnce             sync.Once
	admin                interface {
		CreateTopic(ctx context.Context, opts ...admin.OptionCreate) error
	}
}

func need(name string) string {
	value := os.Getenv(name)
	if value == "" {
		fmt.Fprintln(os.Stderr, "environment variable", name, "is not set")
		os.Exit(2)
	}
	return value
}

func newServer() *server {
	s := &server{
		namesrv: need("NAMESRV_ADDR"),
		broker:  need("BROKER_ADDR"),
		run:     "G" + strconv.FormatInt(time.Now().UnixMilli(), 36),
	}
	a, err := admin.NewAdmin(admin.WithResolver(s.resolver()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "admin client:", err)
		os.Exit(2)
	}
	s.admin = a
	return s
}

func (s *server) resolver() primitive.NsResolver {
	return primitive.NewPassthroughResolver([]string{s.namesrv})
}

// makeTopic makes a topic and waits until the name server tells its route.
func (s *server) makeTopic(topic string, queues int) {
	err := s.admin.CreateTopic(context.Background(), admin.WithTopicCreate(topic),
		admin.WithBrokerAddrCreate(s.broker), admin.WithReadQueueNums(queues),
		admin.WithWriteQueueNums(queues))
	must("make topic "+topic, err)
	until("route of "+topic, 10*time.Second, func() bool {
		code, _ := ask(s.namesrv, getRoute, map[string]string{"topic": topic}, "")
		return code == 0
	})
}

// offset asks the broker for a number that the client library keeps to itself.
func (s *server) offset(code int, topic string, queue int, fields map[string]string) int64 {
	all := map[string]string{"topic": topic, "queueId": strconv.Itoa(queue)}
	for k, v := range fields {
		all[k] = v
	}
	answer, found := ask(s.broker, code, all, "")
	equal(fmt.Sprintf("answer to request %d", code), 0, answer)
	n, err := strconv.ParseInt(found["offset"], 10, 64)
	must("offset", err)
	return n
}

func (s *server) brokerSetting(line string) {
	code, _ := ask(s.broker, updateBrokerConfig, nil, line+"\n")
	equal("answer to a change of settings", 0, code)
}

// ask sends one request by hand and returns the code and the fields of the answer.
func ask(addr string, code int, fields map[string]string, body string) (int, map[string]string) {
	conn, err := net.DialTimeout("tcp", addr, 3*time.Second)
	must("connect to "+addr, err)
	defer conn.Close()
	must("deadline", conn.SetDeadline(time.Now().Add(10*time.Second)))
	header, err := json.Marshal(map[string]interface{}{
		"code": code, "flag": 0, "language": "GO", "opaque": 1, "version": 0,
		"serializeTypeCurrentRPC": "JSON", "extFields": fields,
	})
	must("header", err)
	frame := binary.BigEndian.AppendUint32(nil, uint32(4+len(header)+len(body)))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(header)))
	frame = append(append(frame, header...), body...)
	_, err = conn.Write(frame)
	must("write", err)
	var sizes [8]byte
	_, err = io.ReadFull(conn, sizes[:])
	must("read", err)
	rest := make([]byte, binary.BigEndian.Uint32(sizes[:4])-4)
	_, err = io.ReadFull(conn, rest)
	must("read", err)
	var answer struct {
		Code      int
		ExtFields map[string]string
	}
	must("answer", json.Unmarshal(rest[:binary.BigEndian.Uint32(sizes[4:])&0xffffff], &answer))
	return answer.Code, answer.ExtFields
}

// shell runs the command that stands in an environment variable.
func shell(variable string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return exec.CommandContext(ctx, "bash", "-c", os.Getenv(variable)).Run()
}
