// A plugin of the Node Resource Interface for tests, with upstream's own client code.
//
// It writes a JSON line for every event that it gets, and does what its configuration says: adjust
// containers, refuse an event, never answer one, and change containers unasked. When the runtime goes
// away it connects again.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// config says what the plugin does. Containers and pods are named by their names.
type config struct {
	// Log is the file that events are appended to.
	Log string `json:"log"`
	// Adjust says what containers get, by container; "*" is any.
	Adjust map[string]adjustment `json:"adjust"`
	// Fail says which pod or container is refused, by event.
	Fail map[string]string `json:"fail"`
	// Hang says of which pod or container an event is never answered, by event.
	Hang map[string]string `json:"hang"`
	// Slow is how many milliseconds Synchronize takes.
	Slow int `json:"slow"`
	// Trigger is a file; when it appears, the changes in it are asked for, and it is removed.
	Trigger string `json:"trigger"`
	// FailRequest is that part of the failure policy.
	FailRequest bool `json:"fail_request"`
}

type adjustment struct {
	Env         map[string]string `json:"env"`
	Annotations map[string]string `json:"annotations"`
	Mounts      []mount           `json:"mounts"`
	CDI         []string          `json:"cdi"`
	MemoryLimit int64             `json:"memory_limit"`
	OOMScoreAdj *int              `json:"oom_score_adj"`
	CgroupsPath string            `json:"cgroups_path"`
	BlockIO     string            `json:"blockio_class"`
	RDT         string            `json:"rdt_class"`
	// Update asks for a change of another container, named by its name.
	Update *change `json:"update"`
}

type mount struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
}

type change struct {
	Container   string `json:"container"`
	MemoryLimit int64  `json:"memory_limit"`
	CPUShares   uint64 `json:"cpu_shares"`
	Evict       bool   `json:"evict"`
}

// line is what is logged of an event.
type line struct {
	Event       string            `json:"event"`
	Pod         string            `json:"pod,omitempty"`
	PodID       string            `json:"pod_id,omitempty"`
	Container   string            `json:"container,omitempty"`
	ContainerID string            `json:"container_id,omitempty"`
	State       string            `json:"state,omitempty"`
	Args        []string          `json:"args,omitempty"`
	Env         []string          `json:"env,omitempty"`
	Mounts      []string          `json:"mounts,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	MemoryLimit int64             `json:"memory_limit,omitempty"`
	Pods        []string          `json:"pods,omitempty"`
	Containers  []string          `json:"containers,omitempty"`
	Failed      []string          `json:"failed,omitempty"`
	Error       string            `json:"error,omitempty"`
	Runtime     string            `json:"runtime,omitempty"`
	// PodMemory is the pod's limit, and Asked what its overhead and its resources are to be.
	PodMemory int64   `json:"pod_memory,omitempty"`
	Asked     []int64 `json:"asked,omitempty"`
}

type plugin struct {
	mu    sync.Mutex
	cfg   config
	log   *os.File
	stub  stub.Stub
	names map[string]string
}

func (p *plugin) write(l line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log == nil {
		return
	}
	text, err := json.Marshal(l)
	if err == nil {
		_, err = p.log.Write(append(text, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func (p *plugin) load(text []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := json.Unmarshal(text, &p.cfg); err != nil {
		return err
	}
	log, err := os.OpenFile(p.cfg.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	p.log = log
	return err
}

// event logs an event and does what the configuration says of it.
func (p *plugin) event(name string, pod *api.PodSandbox, c *api.Container, asked ...int64) error {
	l := line{Event: name, Pod: pod.GetName(), PodID: pod.GetId(), Asked: asked}
	l.PodMemory = pod.GetLinux().GetPodResources().GetMemory().GetLimit().GetValue()
	subject := pod.GetName()
	if c != nil {
		subject = c.GetName()
		l.Container, l.ContainerID, l.State = c.GetName(), c.GetId(), c.GetState().String()
		l.Args, l.Env, l.Annotations = c.GetArgs(), c.GetEnv(), c.GetAnnotations()
		l.MemoryLimit = c.GetLinux().GetResources().GetMemory().GetLimit().GetValue()
		for _, m := range c.GetMounts() {
			l.Mounts = append(l.Mounts, m.GetDestination())
		}
		p.mu.Lock()
		p.names[c.GetName()] = c.GetId()
		p.mu.Unlock()
	}
	p.write(l)
	if p.cfg.Fail[name] == subject {
		return errors.New("refused by configuration")
	}
	if p.cfg.Hang[name] == subject {
		select {}
	}
	return nil
}

func (p *plugin) Configure(_ context.Context, text, runtime, version string) (api.EventMask, error) {
	if text != "" {
		if err := p.load([]byte(text)); err != nil {
			return 0, err
		}
	}
	p.write(line{Event: "Configure", Runtime: runtime + " " + version})
	return 0, nil
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	time.Sleep(time.Duration(p.cfg.Slow) * time.Millisecond)
	l := line{Event: "Synchronize"}
	for _, pod := range pods {
		l.Pods = append(l.Pods, pod.GetName())
	}
	for _, c := range containers {
		l.Containers = append(l.Containers, c.GetName())
		p.mu.Lock()
		p.names[c.GetName()] = c.GetId()
		p.mu.Unlock()
	}
	p.write(l)
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.event("RunPodSandbox", pod, nil)
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, overhead, resources *api.LinuxResources) error {
	var asked []int64
	for _, of := range []*api.LinuxResources{overhead, resources} {
		asked = append(asked, of.GetMemory().GetLimit().GetValue())
	}
	return p.event("UpdatePodSandbox", pod, nil, asked...)
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.event("PostUpdatePodSandbox", pod, nil)
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.event("StopPodSandbox", pod, nil)
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.event("RemovePodSandbox", pod, nil)
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.event("CreateContainer", pod, c); err != nil {
		return nil, nil, err
	}
	wish, found := p.cfg.Adjust[c.GetName()]
	if !found {
		wish = p.cfg.Adjust["*"]
	}
	adjust := &api.ContainerAdjustment{}
	for key, value := range wish.Env {
		adjust.AddEnv(key, value)
	}
	for key, value := range wish.Annotations {
		adjust.AddAnnotation(key, value)
	}
	for _, m := range wish.Mounts {
		adjust.AddMount(&api.Mount{Source: m.Source, Destination: m.Destination, Type: "bind", Options: []string{"bind", "ro"}})
	}
	for _, name := range wish.CDI {
		adjust.AddCDIDevice(&api.CDIDevice{Name: name})
	}
	if wish.MemoryLimit != 0 {
		adjust.SetLinuxMemoryLimit(wish.MemoryLimit)
	}
	if wish.OOMScoreAdj != nil {
		adjust.SetLinuxOomScoreAdj(wish.OOMScoreAdj)
	}
	if wish.BlockIO != "" {
		adjust.SetLinuxBlockIOClass(wish.BlockIO)
	}
	if wish.RDT != "" {
		adjust.SetLinuxRDTClass(wish.RDT)
	}
	if wish.CgroupsPath != "" {
		adjust.SetLinuxCgroupsPath(wish.CgroupsPath)
	}
	var updates []*api.ContainerUpdate
	if wish.Update != nil {
		updates = append(updates, p.update(*wish.Update))
	}
	return adjust, updates, nil
}

func (p *plugin) update(wish change) *api.ContainerUpdate {
	p.mu.Lock()
	id := p.names[wish.Container]
	p.mu.Unlock()
	update := &api.ContainerUpdate{}
	update.SetContainerId(id)
	if wish.MemoryLimit != 0 {
		update.SetLinuxMemoryLimit(wish.MemoryLimit)
	}
	if wish.CPUShares != 0 {
		update.SetLinuxCPUShares(wish.CPUShares)
	}
	return update
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.event("PostCreateContainer", pod, c)
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.event("StartContainer", pod, c)
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.event("PostStartContainer", pod, c)
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container, _ *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	return nil, p.event("UpdateContainer", pod, c)
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.event("PostUpdateContainer", pod, c)
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.event("StopContainer", pod, c)
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.event("RemoveContainer", pod, c)
}

func (p *plugin) ValidateContainerAdjustment(_ context.Context, req *api.ValidateContainerAdjustmentRequest) error {
	return p.event("ValidateContainerAdjustment", req.GetPod(), req.GetContainer())
}

// watch asks for the changes that appear in the trigger file.
func (p *plugin) watch() {
	for {
		time.Sleep(10 * time.Millisecond)
		if p.cfg.Trigger == "" {
			continue
		}
		text, err := os.ReadFile(p.cfg.Trigger)
		if err != nil {
			continue
		}
		_ = os.Remove(p.cfg.Trigger)
		var wish change
		if err := json.Unmarshal(text, &wish); err != nil {
			p.write(line{Event: "UpdateContainers", Error: err.Error()})
			continue
		}
		failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{p.update(wish)})
		l := line{Event: "UpdateContainers"}
		for _, update := range failed {
			l.Failed = append(l.Failed, update.GetContainerId())
		}
		if err != nil {
			l.Error = err.Error()
		}
		p.write(l)
	}
}

func (p *plugin) run(socket, index, name string) error {
	options := []stub.Option{
		stub.WithFailurePolicy(&api.FailurePolicy{FailRequest: p.cfg.FailRequest}),
		stub.WithOnClose(func() {}),
	}
	if socket != "" {
		options = append(options, stub.WithSocketPath(socket), stub.WithPluginIdx(index), stub.WithPluginName(name))
	}
	s, err := stub.New(p, options...)
	if err != nil {
		return err
	}
	p.stub = s
	return s.Run(context.Background())
}

func main() {
	socket := flag.String("socket", "", "where to connect to; launched by the runtime without")
	index := flag.String("index", "", "two digits")
	name := flag.String("name", "", "the plugin's name")
	file := flag.String("config", "", "a file with the configuration")
	flag.Parse()
	p := &plugin{names: map[string]string{}}
	if *file != "" {
		text, err := os.ReadFile(*file)
		if err == nil {
			err = p.load(text)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	go p.watch()
	for {
		err := p.run(*socket, *index, *name)
		if *socket == "" {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
