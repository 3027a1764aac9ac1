@0xb1c6f0a94d3e7258;
# The contract between a container runtime (the client) and the monitor of one pod.
#
# Rules of evolution: fields and methods are only added, ordinals are never reused, a new
# capability gets a name in `Welcome.capabilities`. Byte streams never travel in here: they are
# file descriptors, fetched over the streams socket against the one-time token of a reply.
# Times are nanoseconds since the Unix epoch (CLOCK_REALTIME); an absent time is 0.

interface Monitor {
  # One per pod. Calls may overlap; a call whose client goes away is carried to its end.

  hello @0 (client :Hello) -> (result :Result(Welcome));
  # First call of every connection; any other call before it answers `failedPrecondition`.
  # Says too why the pod could not be set up, when it could not.

  subscribe @1 (trace :TraceContext, sink :EventSink) -> (result :Result(Empty));
  # Pushes every event from now on. What happened before is in `state`, which a client that comes
  # back reads after it has subscribed. Each subscriber gets every event.

  state @2 (trace :TraceContext) -> (result :Result(PodState));

  create @3 (trace :TraceContext, container :ContainerConfig) -> (result :Result(Created));
  # Runs the OCI runtime's `create`. The container's program does not run yet.

  start @4 (trace :TraceContext, id :Text) -> (result :Result(Started));

  kill @5 (trace :TraceContext, id :Text, signal :UInt8, all :Bool) -> (result :Result(Empty));
  # Sends one signal to the container's first process, or to all of its processes.

  stop @6 (trace :TraceContext, id :Text, signal :UInt8, graceMs :UInt64) -> (result :Result(Exit));
  # The signal, then SIGKILL to every process once the grace period is over; answers when the
  # container has exited. Repeated stops join; the shortest deadline wins.

  delete @7 (trace :TraceContext, id :Text, force :Bool) -> (result :Result(Empty));
  # Runs the OCI runtime's `delete` and forgets the container. An unknown id is success. A container
  # that is still being created, which `state` does not list, is deleted when its create has ended:
  # a client that comes back loses none by deleting, with force, what it once asked for.

  exec @8 (trace :TraceContext, exec :ExecConfig) -> (result :Result(ExecStarted));
  # The process runs when this answers. Its standard streams wait under the token.

  attach @9 (trace :TraceContext, attach :AttachConfig) -> (result :Result(Attached));

  resize @10 (trace :TraceContext, id :Text, size :TerminalSize) -> (result :Result(Empty));

  reopenLog @11 (trace :TraceContext, id :Text) -> (result :Result(Empty));
  # Opens the log path anew, after a rotation moved the old file away. On an error the old file
  # stays in use and no new one exists.

  update @12 (trace :TraceContext, id :Text, resources :Data) -> (result :Result(Empty));
  # `resources` is the JSON of an OCI `linux.resources` object.

  shutdown @13 (trace :TraceContext, force :Bool) -> (result :Result(Empty));
  # Unpins the namespaces and ends the monitor. Refused with `failedPrecondition` while a container
  # is left, unless forced: then containers are killed and deleted first.

  pause @14 (trace :TraceContext, id :Text) -> (result :Result(Empty));
  resume @15 (trace :TraceContext, id :Text) -> (result :Result(Empty));

  escrow @16 (trace :TraceContext, id :Text) -> (result :Result(Escrowed));
  # Duplicates of the monitor's ends of a container's streams, and a pidfd of its first process.
  # While a client holds them the container's pipes do not break when the monitor dies, and it can
  # hand them to another monitor, in `Resume`. A client that has asked once for a container is told
  # by an event when its standard input is closed: then it is to drop its duplicate.

  settle @17 (trace :TraceContext, id :Text, exit :Exit) -> (result :Result(Empty));
  # How the first process of an adopted container ended, from whoever the kernel made its parent.
  # Nothing to do where the monitor knows already.

  upgrade @18 (trace :TraceContext, token :Data) -> (result :Result(Empty));
  # Becomes the program that was deposited on the streams socket under the token: same process,
  # same children, same descriptors. Connections break; nothing else does. Answers only where it
  # stays what it is, among others with `failedPrecondition` while calls are under way.

  process @19 (trace :TraceContext, pid :UInt32) -> (result :Result(ProcessFound));
  # A running exec, after an upgrade took its capability away with the connection.

  attachment @20 (trace :TraceContext, number :UInt32) -> (result :Result(AttachmentFound));
  # A running attachment, likewise.

  checkpoint @21 (trace :TraceContext, id :Text, images :Text, work :Text, timeoutMs :UInt64)
      -> (result :Result(Empty));
  # Runs the OCI runtime's `checkpoint`: what the container's processes are is written to the
  # directory `images`, and to `work` what CRIU says of it. Both are there already. The container
  # runs on. 0 leaves the time to `RuntimeConfig.timeoutMs`.

  restore @22 (trace :TraceContext, container :ContainerConfig, images :Text, work :Text)
      -> (result :Result(Created));
  # Runs the OCI runtime's `restore`, in place of `create` and `start`: the container goes on from
  # what `checkpoint` wrote to `images`. It runs when this answers, since the time in the answer.
}

interface EventSink {
  event @0 (event :Event) -> ();
  # The answer is the receipt. The monitor keeps few events unanswered per subscriber and drops a
  # subscriber that stops answering; the subscriber sees that as a broken connection.
}

interface Process {
  # A running exec. Dropping it changes nothing: the process runs on.
  wait @0 () -> (result :Result(Exit));
  kill @1 (signal :UInt8) -> (result :Result(Empty));
  # To the process and all that descend from it.
  resize @2 (size :TerminalSize) -> (result :Result(Empty));
}

interface Attachment {
  wait @0 () -> (end :AttachEnd);
}

enum AttachEnd {
  containerExited @0;
  detached @1;
  # The client closed its ends.
  stalled @2;
  # The client did not read for longer than the limit and was dropped: output is missing.
}

struct Empty {}

struct Result(T) {
  union {
    error @0 :Error;
    value @1 :T;
  }
}

struct Error {
  code @0 :ErrorCode;
  operation @1 :Text;
  # What was being done: "create", "open log".
  subject @2 :Text;
  # What it was done to: a container's id, a path.
  detail @3 :Text;
  # The cause in words, for people; nothing decides by it.
  errno @4 :Int32;
  # The kernel's error number, 0 where there is none.
}

enum ErrorCode {
  internal @0;
  notFound @1;
  alreadyExists @2;
  invalidArgument @3;
  failedPrecondition @4;
  resourceExhausted @5;
  deadlineExceeded @6;
  runtimeFailed @7;
  # The OCI runtime ran and refused; `detail` holds what it said.
  runtimeMissing @8;
  # The OCI runtime's program could not be started.
  io @9;
  incompatible @10;
  # The protocol versions do not meet.
  unimplemented @11;
}

struct TraceContext {
  requestId @0 :Text;
  traceparent @1 :Text;
  # W3C Trace Context, or empty.
}

struct Hello {
  name @0 :Text;
  # The client's program and version, for logs.
  version @1 :UInt16;
  oldestVersion @2 :UInt16;
  # The protocol versions it speaks, both ends included.
}

struct Welcome {
  version @0 :UInt16;
  # The one both will speak.
  capabilities @1 :List(Text);
  monitorVersion @2 :Text;
  pid @3 :UInt32;
  podId @4 :Text;
  podPid @5 :UInt32;
  # The first process of the pod's shared PID namespace, 0 where there is none.
}

struct StartConfig {
  # What a monitor is started with, as one message in a sealed memfd.
  id @0 :Text;
  runDirectory @1 :Text;
  # The monitor's own: sockets, pinned namespaces, pid files of runtime calls.
  runtime @2 :RuntimeConfig;
  namespaces @3 :Namespaces;
  hostname @4 :Text;
  sysctls @5 :List(KeyValue);
  # Written inside the new namespaces; names with dots.
  limits @6 :Limits;
}

struct RuntimeConfig {
  path @0 :Text;
  root @1 :Text;
  # The OCI runtime's state directory, its `--root`.
  options @2 :List(Text);
  # Global options, before the command.
  systemdCgroup @3 :Bool;
  timeoutMs @4 :UInt64;
  # For each call of the runtime; then it is killed and the call undone.
}

struct Namespaces {
  net @0 :Bool;
  ipc @1 :Bool;
  uts @2 :Bool;
  # True: made new and pinned as <runDirectory>/ns/{net,ipc,uts,user,pid}. False: the host's.
  pid @3 :Bool;
  # A PID namespace that all containers share, with an init that reaps.
  uidMappings @4 :List(IdMapping);
  gidMappings @5 :List(IdMapping);
  # Not empty: a user namespace that owns the others.
}

struct IdMapping {
  containerId @0 :UInt32;
  hostId @1 :UInt32;
  length @2 :UInt32;
}

struct KeyValue {
  key @0 :Text;
  value @1 :Text;
}

struct Limits {
  # 0 asks for the monitor's default.
  callsInFlight @0 :UInt32;
  messageBytes @1 :UInt32;
  connections @2 :UInt32;
  logLineBytes @3 :UInt32;
  # A longer line is written in partial pieces of this size.
  logFlushMs @4 :UInt32;
  # An unfinished line is written as partial when nothing followed it for so long.
  attachStallMs @5 :UInt32;
  tokenMs @6 :UInt32;
  # How long streams wait to be fetched.
}

struct ContainerConfig {
  id @0 :Text;
  bundle @1 :Text;
  terminal @2 :Bool;
  stdin @3 :Stdin;
  logPath @4 :Text;
  # Empty: output is read and not kept.
  memoryEvents @5 :Bool;
  # Watch for OOM kills.
}

enum Stdin {
  none @0;
  # /dev/null
  open @1;
  # Stays open when an attached client goes away.
  once @2;
  # Closed when the first attached client that wrote closes it.
}

struct Created {
  pid @0 :UInt32;
  createdAt @1 :Int64;
}

struct Started {
  startedAt @0 :Int64;
}

struct Exit {
  union {
    code @0 :UInt8;
    signal @1 :UInt8;
    timedOut @2 :Void;
    # Killed because its time was over.
    lost @3 :Void;
    # Ended, and nobody can say how.
  }
  exitedAt @4 :Int64;
  oomKilled @5 :Bool;
}

struct ExecConfig {
  containerId @0 :Text;
  process @1 :Data;
  # The JSON of an OCI `process` object.
  terminal @2 :Bool;
  stdin @3 :Bool;
  stdout @4 :Bool;
  stderr @5 :Bool;
  size @6 :TerminalSize;
  timeoutMs @7 :UInt64;
  # 0: none. After it the process and all that descend from it are killed.
}

struct ExecStarted {
  token @0 :Data;
  pid @1 :UInt32;
  process @2 :Process;
  startedAt @3 :Int64;
}

struct AttachConfig {
  containerId @0 :Text;
  stdin @1 :Bool;
  stdout @2 :Bool;
  stderr @3 :Bool;
}

struct Attached {
  token @0 :Data;
  attachment @1 :Attachment;
  terminal @2 :Bool;
  number @3 :UInt32;
  # Its name within the monitor, for `Monitor.attachment`. Counts from 1.
}

struct Escrowed {
  token @0 :Data;
}

struct ProcessFound {
  process @0 :Process;
}

struct AttachmentFound {
  attachment @0 :Attachment;
}

struct TerminalSize {
  columns @0 :UInt16;
  rows @1 :UInt16;
}

struct PodState {
  containers @0 :List(ContainerState);
  lastEvent @1 :UInt64;
  # The sequence number of the newest event that this state includes.
}

struct ContainerState {
  id @0 :Text;
  pid @1 :UInt32;
  createdAt @2 :Int64;
  union {
    created @3 :Void;
    running :group { startedAt @4 :Int64; }
    paused :group { startedAt @5 :Int64; }
    exited :group { startedAt @6 :Int64; exit @7 :Exit; }
  }
  logBytesLost @8 :UInt64;
  terminal @9 :Bool;
}

struct Event {
  sequence @0 :UInt64;
  # Counts from 1 without a gap.
  time @1 :Int64;
  containerId @2 :Text;
  union {
    created @3 :Created;
    started @4 :Started;
    exited @5 :Exit;
    # After the last byte of its output is in the log.
    oom @6 :Void;
    logLost :group { bytes @7 :UInt64; }
    # Log bytes that could not be written so far, in all.
    deleted @8 :Void;
    stdinClosed @9 :Void;
    # Told only of a container whose streams were asked for with `escrow`.
  }
}

struct Resume {
  # What a monitor goes on from, instead of beginning a pod: as one message in a second sealed
  # memfd. It is written by a monitor that becomes another program, and by a client whose monitor
  # died. Descriptors are numbers in the process that reads it; 0 means that there is none.
  containers @0 :List(ResumedContainer);
  lastEvent @1 :UInt64;
  podPid @2 :UInt32;
  # As in `Welcome`.
  sameProcess @3 :Bool;
  # True: the process is the one that the containers are children of. False: it adopts them.
  oomScore @4 :Text;
  # What the children's OOM score adjustment is to be; empty leaves the monitor's.
  execs @5 :List(ResumedExec);
  attachments @6 :UInt32;
  # How many there were so far.
}

struct ResumedContainer {
  config @0 :ContainerConfig;
  state @1 :ContainerState;
  process @2 :UInt32;
  # A pidfd of the first process, where that is no child.
  stdin @3 :UInt32;
  terminal @4 :UInt32;
  # In place of the outputs.
  stdout @5 :ResumedOutput;
  stderr @6 :ResumedOutput;
  log @7 :ResumedLog;
  oomSeen @8 :Bool;
  oomBaseline @9 :UInt64;
  # Kills that the group had counted before the container was made.
  clients @10 :List(ResumedClient);
  escrowed @11 :Bool;
}

struct ResumedOutput {
  descriptor @0 :UInt32;
  unfinished @1 :Data;
  # The line that was read so far.
}

struct ResumedLog {
  descriptor @0 :UInt32;
  # 0: the file is opened by its path.
  unmarkedBytes @1 :UInt64;
  # Those lost bytes that the log does not speak of yet.
  unmarkedErrno @2 :Int32;
  torn @3 :Bool;
  # Whether the file ends within a line.
}

struct ResumedClient {
  number @0 :UInt32;
  stdin @1 :UInt32;
  stdout @2 :UInt32;
  stderr @3 :UInt32;
  wrote @4 :Bool;
  # Whether it has written to the container's input.
  unwritten @5 :Data;
  # What was read from it and the container did not take yet.
  owedStdout @6 :Data;
  owedStderr @7 :Data;
  # What the container wrote and it did not take yet.
}

struct ResumedExec {
  pid @0 :UInt32;
  terminal @1 :UInt32;
  leftMs @2 :UInt64;
  # Until it is to be killed; 0: it has no limit.
}
