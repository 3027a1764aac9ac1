// A client of the kubelet's API, as kubectl is one through the API server: exec, attach and port-forward over SPDY and
// WebSocket, by the library that kubectl uses. Standard input and output are the session's, and the exit status is that
// of the command that was run.
//
//	client stream -transport spdy|websocket [-stdin] [-tty] [-size 80x24] URL
//	client forward -transport spdy|websocket -port PORT URL
//	client get URL
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

var (
	flags     = flag.NewFlagSet("client", flag.ExitOnError)
	transport = flags.String("transport", "spdy", "spdy or websocket")
	stdin     = flags.Bool("stdin", false, "send standard input")
	tty       = flags.Bool("tty", false, "ask for a terminal")
	size      = flags.String("size", "", "the terminal's size, columns and rows")
	port      = flags.Uint("port", 0, "the pod's port")
)

// The kubelet signs its certificate itself.
var config = &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("usage: client stream|forward|get [flags] URL"))
	}
	if err := flags.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
	target, err := url.Parse(flags.Arg(0))
	if err != nil {
		fail(err)
	}
	commands := map[string]func(*url.URL) error{"stream": stream, "forward": forward, "get": get}
	command, known := commands[os.Args[1]]
	if !known {
		fail(fmt.Errorf("no command %q", os.Args[1]))
	}
	if err := command(target); err != nil {
		fail(err)
	}
}

func fail(err error) {
	var ended exec.CodeExitError
	if errors.As(err, &ended) {
		os.Exit(ended.Code)
	}
	fmt.Fprintln(os.Stderr, "client:", err)
	os.Exit(125)
}

func stream(target *url.URL) error {
	executor, err := executor(target)
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: *tty}
	if *stdin {
		options.Stdin = os.Stdin
	}
	if !*tty {
		options.Stderr = os.Stderr
	}
	if *size != "" {
		once := make(sizes, 1)
		var it remotecommand.TerminalSize
		if _, err := fmt.Sscanf(*size, "%dx%d", &it.Width, &it.Height); err != nil {
			return err
		}
		once <- &it
		options.TerminalSizeQueue = once
	}
	return executor.StreamWithContext(context.Background(), options)
}

func executor(target *url.URL) (remotecommand.Executor, error) {
	if *transport == "websocket" {
		return remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	}
	return remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
}

type sizes chan *remotecommand.TerminalSize

func (queue sizes) Next() *remotecommand.TerminalSize { return <-queue }

// Forwards one connection: standard input goes to the port, and what comes back to standard output.
func forward(target *url.URL) error {
	dialer, err := dialer(target)
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	ports := []string{fmt.Sprintf("0:%d", *port)}
	forwarder, err := portforward.NewForStreaming(dialer, ports, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case err := <-ended:
		return err
	case <-ready:
	}
	defer close(stop)
	local, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	connection, err := net.Dial("tcp", fmt.Sprintf("localhost:%d", local[0].Local))
	if err != nil {
		return err
	}
	go func() {
		io.Copy(connection, os.Stdin)
		connection.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, connection)
	return err
}

func dialer(target *url.URL) (httpstream.Dialer, error) {
	if *transport == "websocket" {
		return portforward.NewSPDYOverWebsocketDialerForStreaming(target, config)
	}
	through, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: through}, http.MethodPost, target), nil
}

func get(target *url.URL) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	answer, err := client.Get(target.String())
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}
