#!/usr/bin/env bash
# Launches one vLLM server, on one node or, by Ray, on all nodes of a job; ends when it ends, and takes all with it.
# `launch_vllm.sh --help` lists the parameters. Needs bash 4.4, coreutils, awk and ps; curl or python3 for the health
# check; scontrol or PBS's node file, and ray, for more than one node.
set -uo pipefail

usage() {
  cat <<'TEXT'
usage: launch_vllm.sh --port N --model MODEL [parameters] [-- words for vLLM]

what is served
  --port N                where vLLM listens, on 127.0.0.1
  --model MODEL           what vLLM loads: a name at Hugging Face, or a folder
  --served-name NAME      the name in calls; may be repeated (default: the model)
  --tensor-parallel N     GPUs that share each layer (default 1)
  --pipeline-parallel N   groups of GPUs that hold different layers (default 1)

nodes
  --nodes N               how many of the job's nodes vLLM takes; above 1 it runs on Ray (default 1)
  --gpus-per-node N       how many GPUs Ray offers on each (default: as Ray finds)
  --reach HOW             how to start something on another node: srun, mpiexec, ssh, or words with {node}
  --interface NAME        the network interface between nodes, for Ray, NCCL and Gloo
  --ray-port N            where Ray's head listens (default 6379)

environment of vLLM, entered in this order
  --module-path PATH      module use PATH; may be repeated
  --module NAME           module load NAME; may be repeated
  --conda ENV             conda activate ENV
  --venv FOLDER           source FOLDER/bin/activate
  --setup LINE            a line of shell of the site's own; may be repeated
  --env NAME=VALUE        export it; may be repeated
  --proxy URL             the site's proxy for what leaves it
  --no-proxy HOSTS        what is reached without it (default localhost,127.0.0.1)
  --python FILE           run vLLM as a module of this Python, instead of the program vllm

patience, in seconds
  --attempts N            starts before giving up (default 2); only what never became healthy is started again
  --start-timeout S       from a start to a healthy server (default 3600)
  --ray-timeout S         until all nodes have joined Ray (default 300)
  --stop-timeout S        from SIGTERM to SIGKILL (default 20)
  --log-dir FOLDER        where logs go (default $WEFT_LOG_DIR, else with ours)

exit status: vLLM's own; 2 wrong parameters; 69 it never became healthy; 70 the nodes did not join; 143 told to stop
TEXT
}

say() { printf '%s launch_vllm: %s\n' "$(date '+%F %T')" "$*" >&2; }
die() { say "$2"; exit "$1"; }

port='' model='' served=() tensor=1 pipeline=1 nodes=1 gpus='' reach='' interface='' ray_port=6379
environment=() proxy='' no_proxy_hosts=localhost,127.0.0.1 python='' vllm_words=() join=''
attempts=2 start_timeout=3600 ray_timeout=300 stop_timeout=20 log_dir=${WEFT_LOG_DIR:-}

whole() { # a number for the flag $1
  [[ $2 =~ ^[1-9][0-9]{0,6}$ ]] || die 2 "$1 takes a whole number above zero, not '$2'"
}

parse() {
  local flag
  while [ $# -gt 0 ]; do
    flag=$1
    case $flag in
      -h | --help) usage; exit 0 ;;
      --) shift; vllm_words=("$@"); break ;;
      --*) [ $# -ge 2 ] || die 2 "$flag takes a value" ;;
      *) die 2 "unexpected '$flag'; words for vLLM go behind --" ;;
    esac
    case $flag in
      --port | --tensor-parallel | --pipeline-parallel | --nodes | --gpus-per-node | --ray-port | --attempts | \
        --start-timeout | --ray-timeout | --stop-timeout) whole "$flag" "$2" ;;
    esac
    case $flag in
      --port) port=$2 ;;
      --model) model=$2 ;;
      --served-name) served+=("$2") ;;
      --tensor-parallel) tensor=$2 ;;
      --pipeline-parallel) pipeline=$2 ;;
      --nodes) nodes=$2 ;;
      --gpus-per-node) gpus=$2 ;;
      --reach) reach=$2 ;;
      --interface) interface=$2 ;;
      --ray-port) ray_port=$2 ;;
      --module-path | --module | --conda | --venv | --setup | --env) environment+=("$flag" "$2") ;;
      --proxy) proxy=$2 ;;
      --no-proxy) no_proxy_hosts=$2 ;;
      --python) python=$2 ;;
      --attempts) attempts=$2 ;;
      --start-timeout) start_timeout=$2 ;;
      --ray-timeout) ray_timeout=$2 ;;
      --stop-timeout) stop_timeout=$2 ;;
      --log-dir) log_dir=$2 ;;
      --join) join=$2 ;; # this is another node of a job whose Ray head listens at this address
      *) die 2 "unknown parameter '$flag'; --help lists them" ;;
    esac
    shift 2
  done
  [ -n "$join" ] && return
  [ -n "$port" ] || die 2 "--port is needed"
  [ -n "$model" ] || die 2 "--model is needed"
  [ "$nodes" = 1 ] || [ -n "$reach" ] || die 2 "--nodes $nodes needs --reach: how to start something on another node"
}

enter() { # the steps of `environment`, pairs of a flag and its value
  while [ $# -gt 0 ]; do
    case $1 in
      --module-path) module use "$2" || die 2 "module use $2 failed" ;;
      --module) module load "$2" || die 2 "module load $2 failed" ;;
      --conda)
        eval "$(conda shell.bash hook)" || die 2 "conda is not found; load its module first, with --module"
        conda activate "$2" || die 2 "there is no conda environment $2"
        ;;
      --venv)
        # shellcheck source=/dev/null
        source "${2/#\~\//$HOME/}/bin/activate" || die 2 "there is no virtual environment $2"
        ;;
      --setup) eval "$2" || die 2 "the site's line '$2' failed" ;;
      --env) export "${2?}" ;;
    esac
    shift 2
  done
}

set_environment() {
  set +u # modules and conda read variables that nobody set
  enter "${environment[@]}"
  set -u
  if [ -n "$proxy" ]; then
    export http_proxy=$proxy https_proxy=$proxy HTTP_PROXY=$proxy HTTPS_PROXY=$proxy
    export no_proxy=$no_proxy_hosts NO_PROXY=$no_proxy_hosts
  fi
  if [ -n "$interface" ]; then
    export NCCL_SOCKET_IFNAME=$interface GLOO_SOCKET_IFNAME=$interface TP_SOCKET_IFNAME=$interface
  fi
  export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 RAY_USAGE_STATS_ENABLED=0
}

own_address() { # of this node, on the interface given
  local found=''
  if [ -n "$interface" ]; then
    found=$(ip -4 -o addr show dev "$interface" 2>/dev/null | awk '{sub(/\/.*/, "", $4); print $4; exit}')
    [ -n "$found" ] || die 70 "the interface $interface has no address on $(hostname)"
  else
    found=$(hostname -I 2>/dev/null | awk '{print $1}')
  fi
  echo "${found:-127.0.0.1}"
}

other_nodes() { # the names of the job's nodes but for this one
  local own
  own=$(hostname -s)
  if [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    scontrol show hostnames "$SLURM_JOB_NODELIST"
  elif [ -n "${PBS_NODEFILE:-}" ]; then
    cat "$PBS_NODEFILE"
  else
    die 70 "neither SLURM_JOB_NODELIST nor PBS_NODEFILE is set: --nodes $nodes needs a job of a scheduler"
  fi | awk -v own="$own" '{split($1, part, ".")} part[1] != own && !seen[$1]++'
}

descendants() { # of $1, children before theirs
  ps -A -o pid=,ppid= | awk -v top="$1" '
    {children[$2] = children[$2] " " $1}
    function walk(pid, list, n, i) {n = split(children[pid], list); for (i = 1; i <= n; i++) {print list[i]; walk(list[i])}}
    END {walk(top)}'
}

alive() { kill -0 "$1" 2>/dev/null; }

end_tree() { # SIGTERM for $1; SIGKILL for it and all below it after $2 seconds
  local pid=$1 patience=$2 tree waited=0
  tree=$(descendants "$pid")
  kill -TERM "$pid" 2>/dev/null
  while alive "$pid" && [ "$waited" -lt $((patience * 5)) ]; do
    sleep 0.2
    waited=$((waited + 1))
  done
  # shellcheck disable=SC2046,SC2086 # numbers, each a word
  kill -KILL "$pid" $tree $(descendants "$pid") 2>/dev/null
  wait "$pid" 2>/dev/null
}

server='' ray_pids=()

end_strays() { # what a server that died by itself left in this script's process group: an engine holds its GPU
  [ "$(ps -o pgid= -p $$ | tr -d ' ')" = $$ ] || return # somebody else's group
  local kept
  kept=" $$ ${ray_pids[*]} $(for pid in "${ray_pids[@]}"; do descendants "$pid"; done | tr '\n' ' ') "
  ps -A -o pid=,pgid= | awk -v group=$$ -v kept="$kept" '$2 == group && !index(kept, " " $1 " ") {print $1}' |
    xargs -r kill -KILL 2>/dev/null
}

# shellcheck disable=SC2317 # a trap calls it
clean_up() { # everything that this script started; Ray's workers notice the end of their head, and of their step
  trap '' TERM INT HUP
  [ -n "$server" ] && end_tree "$server" "$stop_timeout"
  local pid
  for pid in "${ray_pids[@]}"; do end_tree "$pid" 10; done
  ray_pids=()
  end_strays
}

reach_words() { # into `words`: what runs a command on the node $1
  case $reach in
    srun) words=(srun --overlap --nodes=1 --ntasks=1 --cpu-bind=none "--nodelist=$1") ;;
    mpiexec) # Open MPI has another name for it than MPICH and PALS
      if mpiexec --version 2>/dev/null | grep -qi 'open.\?\(mpi\|rte\)'; then
        words=(mpiexec --host "$1" -n 1)
      else
        words=(mpiexec --hosts "$1" -n 1)
      fi
      ;;
    ssh) words=(ssh -o BatchMode=yes -tt "$1") ;;
    *"{node}"*) read -ra words <<<"${reach//"{node}"/$1}" ;;
    *) die 2 "--reach is srun, mpiexec, ssh, or words with {node}, not '$reach'" ;;
  esac
}

start_ray() {
  local head others node words command
  head=$(own_address) || exit
  mapfile -t others < <(other_nodes)
  [ "${#others[@]}" -ge $((nodes - 1)) ] ||
    die 70 "the job has ${#others[@]} nodes beside this one, and --nodes $nodes asks for $((nodes - 1))"
  others=("${others[@]:0:nodes-1}")
  export VLLM_HOST_IP=$head RAY_ADDRESS=$head:$ray_port
  say "Ray's head is here at $head:$ray_port; to join: ${others[*]}"
  ray start --head --node-ip-address "$head" --port "$ray_port" ${gpus:+--num-gpus "$gpus"} --block \
    --include-dashboard=false >>"$(log_file ray-head)" 2>&1 &
  ray_pids+=($!)
  for node in "${others[@]}"; do
    reach_words "$node"
    command=("$(readlink -f "$0")" --join "$head:$ray_port" ${gpus:+--gpus-per-node "$gpus"}
      ${interface:+--interface "$interface"} ${proxy:+--proxy "$proxy" --no-proxy "$no_proxy_hosts"}
      "${environment[@]}")
    if [ "$reach" = ssh ]; then words+=("$(printf '%q ' "${command[@]}")"); else words+=("${command[@]}"); fi
    "${words[@]}" >>"$(log_file "ray-$node")" 2>&1 </dev/null &
    ray_pids+=($!)
  done
  wait_for_nodes
}

wait_for_nodes() {
  local deadline=$((SECONDS + ray_timeout)) pid joined=0
  while [ "$SECONDS" -lt "$deadline" ]; do
    joined=$(ray status 2>/dev/null | awk '/^Active:/ {on = 1; next} /^Pending:/ {on = 0} on && /node_/ {n += $1} END {print n + 0}')
    [ "$joined" -ge "$nodes" ] && { say "$joined nodes have joined Ray"; return; }
    for pid in "${ray_pids[@]}"; do
      alive "$pid" || die 70 "Ray ended on one of the nodes; see its log${log_dir:+ in $log_dir}"
    done
    sleep 1
  done
  die 70 "only $joined of $nodes nodes joined Ray within $ray_timeout s"
}

join_ray() { # on another node: until the head is gone
  local own
  own=$(own_address) || exit
  export VLLM_HOST_IP=$own
  ray start --address "$join" --node-ip-address "$own" ${gpus:+--num-gpus "$gpus"} --block &
  ray_pids+=($!)
  wait "${ray_pids[0]}"
  exit
}

log_file() { # where the output of $1 goes
  if [ -n "$log_dir" ]; then echo "$log_dir/$1-${WEFT_JOB_ID:-${SLURM_JOB_ID:-${PBS_JOBID:-$$}}}.log"; else echo /dev/stderr; fi
}

healthy() {
  if command -v curl >/dev/null; then
    curl --silent --fail --noproxy '*' --max-time 5 --output /dev/null "http://127.0.0.1:$port/health"
  else
    python3 -c 'import http.client, sys
c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=5); c.request("GET", "/health")
sys.exit(c.getresponse().status != 200)' "$port" 2>/dev/null
  fi
}

start_server() {
  local words=() log
  if [ -n "$python" ]; then
    words=("$python" -m vllm.entrypoints.openai.api_server --model "$model")
  else
    words=(vllm serve "$model")
  fi
  words+=(--host 127.0.0.1 --port "$port" --served-model-name "${served[@]:-$model}")
  [ "$tensor" = 1 ] || words+=(--tensor-parallel-size "$tensor")
  [ "$pipeline" = 1 ] || words+=(--pipeline-parallel-size "$pipeline")
  [ "$nodes" = 1 ] || words+=(--distributed-executor-backend ray)
  words+=("${vllm_words[@]}")
  log=$(log_file vllm)
  say "starting ${words[*]}"
  "${words[@]}" >>"$log" 2>&1 &
  server=$!
}

serve_once() { # 0: it was healthy, and ended with `status`; 1: it never was
  local deadline=$((SECONDS + start_timeout))
  start_server
  while ! healthy; do
    if ! alive "$server"; then
      wait "$server"
      status=$?
      say "vLLM ended with status $status before it was healthy"
      server=''
      end_strays
      return 1
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      say "vLLM is not healthy after $start_timeout s; ending it"
      end_tree "$server" 5
      server='' status=69
      return 1
    fi
    sleep 1
  done
  say "vLLM is healthy on port $port"
  wait "$server"
  status=$?
  server=''
  say "vLLM ended with status $status"
}

main() {
  parse "$@"
  trap clean_up EXIT
  trap 'say "told to stop"; exit 143' TERM INT HUP
  set_environment
  [ -n "$join" ] && join_ray
  [ -n "$log_dir" ] && { mkdir -p "$log_dir" || die 2 "cannot make the folder $log_dir"; }
  [ "$nodes" = 1 ] || start_ray
  local attempt status=0
  for ((attempt = 1; attempt <= attempts; attempt++)); do
    say "attempt $attempt of $attempts"
    serve_once && exit "$status"
  done
  die 69 "vLLM did not become healthy in $attempts attempts; its log${log_dir:+ in $log_dir} says why"
}

main "$@"
