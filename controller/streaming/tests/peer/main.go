// Command peer drives a streaming server with the client code that kubectl uses.
//
// It prints what arrives on its own standard streams and ends with the exit
// code of the remote command, so that a test can compare both with the truth.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/httpstream"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// Exit codes of the peer itself, apart from those of remote commands in the tests.
const (
	exitUsage  = 120
	exitFailed = 121
)

type options struct {
	mode, transport, url, protocols, ports, sizes string
	stdin, stdout, stderr, tty                    bool
}

func parse() options {
	var o options
	flag.StringVar(&o.mode, "mode", "exec", "exec or forward")
	flag.StringVar(&o.transport, "transport", "spdy", "spdy or websocket")
	flag.StringVar(&o.url, "url", "", "URL handed out by the server")
	flag.StringVar(&o.protocols, "protocols", "v4.channel.k8s.io", "comma separated subprotocols")
	flag.StringVar(&o.ports, "ports", "", "comma separated local:remote pairs")
	flag.StringVar(&o.sizes, "sizes", "", "comma separated columns x rows, sent in this order")
	flag.BoolVar(&o.stdin, "stdin", false, "attach stdin")
	flag.BoolVar(&o.stdout, "stdout", true, "attach stdout")
	flag.BoolVar(&o.stderr, "stderr", false, "attach stderr")
	flag.BoolVar(&o.tty, "tty", false, "ask for a terminal")
	flag.Parse()
	return o
}

func main() {
	o := parse()
	var err error
	switch o.mode {
	case "exec":
		err = runCommand(o)
	case "forward":
		err = forward(o)
	default:
		os.Exit(exitUsage)
	}
	var code exec.CodeExitError
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(code.Code)
	default:
		fmt.Fprintf(os.Stderr, "peer: %v\n", err)
		os.Exit(exitFailed)
	}
}

func config() *restclient.Config {
	return &restclient.Config{TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}
}

// sizeQueue hands out a fixed list of sizes and then blocks the resize loop.
type sizeQueue struct{ left []remotecommand.TerminalSize }

func (q *sizeQueue) Next() *remotecommand.TerminalSize {
	if len(q.left) == 0 {
		select {}
	}
	next := q.left[0]
	q.left = q.left[1:]
	return &next
}

func sizes(text string) (remotecommand.TerminalSizeQueue, error) {
	q := &sizeQueue{}
	if text == "" {
		return nil, nil
	}
	for _, one := range strings.Split(text, ",") {
		var s remotecommand.TerminalSize
		if _, err := fmt.Sscanf(one, "%dx%d", &s.Width, &s.Height); err != nil {
			return nil, fmt.Errorf("size %q: %w", one, err)
		}
		q.left = append(q.left, s)
	}
	return q, nil
}

func executor(o options) (remotecommand.Executor, error) {
	protocols := strings.Split(o.protocols, ",")
	if o.transport == "websocket" {
		return remotecommand.NewWebSocketExecutorForProtocols(config(), "GET", o.url, protocols...)
	}
	parsed, err := url.Parse(o.url)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(config())
	if err != nil {
		return nil, err
	}
	return remotecommand.NewSPDYExecutorForProtocols(transport, upgrader, "POST", parsed, protocols...)
}

func runCommand(o options) error {
	e, err := executor(o)
	if err != nil {
		return err
	}
	queue, err := sizes(o.sizes)
	if err != nil {
		return err
	}
	streams := remotecommand.StreamOptions{Tty: o.tty, TerminalSizeQueue: queue}
	if o.stdin {
		streams.Stdin = io.Reader(os.Stdin)
	}
	if o.stdout {
		streams.Stdout = os.Stdout
	}
	if o.stderr {
		streams.Stderr = os.Stderr
	}
	return e.StreamWithContext(context.Background(), streams)
}

func dialer(o options) (httpstream.Dialer, error) {
	parsed, err := url.Parse(o.url)
	if err != nil {
		return nil, err
	}
	if o.transport == "websocket" {
		return portforward.NewSPDYOverWebsocketDialer(parsed, config())
	}
	transport, upgrader, err := spdy.RoundTripperFor(config())
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", parsed), nil
}

// forward prints the local ports as one line of JSON and serves until stdin ends.
func forward(o options) error {
	d, err := dialer(o)
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.NewOnAddresses(
		d, []string{"127.0.0.1"}, strings.Split(o.ports, ","), stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	go func() {
		<-ready
		ports, err := f.GetPorts()
		if err == nil {
			_ = json.NewEncoder(os.Stdout).Encode(ports)
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	return f.ForwardPorts()
}
