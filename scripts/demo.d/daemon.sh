# shellcheck shell=bash disable=SC2154 # from the other parts of the demo
# The system as an image, and containers of it, through a daemon of the demo's own: started by its client, killed, and started again.

state=/run/caisson-demo-$$ # short, as sockets are in it
daemon='' # its pid

ctl() { "$programs/caissonctl" --root "$work/store" --state "$state" "$@"; }
# Shows the command, and what it says.
shown() {
    local word line='$ caissonctl'
    for word; do if [[ $word =~ ^[[:alnum:]./:=-]+$ ]]; then line+=" $word"; else line+=" '$word'"; fi; done
    echo "$line"
    ctl "$@" | tee "$work/seen"
}
find_daemon() { daemon=$(ctl version --format '{{.Server.Pid}}'); }
# signal_daemon SIGNAL: and waits for its end. It has the lock until then.
signal_daemon() { kill "-$1" "$daemon" && daemon='' && flock "$work/store/lock" true; }
# However the demo ends.
end_daemon() {
    [[ -n $daemon ]] || return 0
    ctl ps -aq | xargs --no-run-if-empty "$programs/caissonctl" --root "$work/store" --state "$state" rm -f >&2 || true
    signal_daemon TERM || true
}
# That have it in their command line: daemon, shims. In brackets, or grep would find itself.
processes() { grep -ls -- "${state/caisson/[c]aisson}" /proc/[0-9]*/cmdline || true; }

demonstrate_daemon() {
    local limit answer='' group=$hierarchy/caisson new_group='' id
    [[ -d $group ]] || new_group=yes
    cat /proc/self/mountinfo >"$work/mounts-before"

    echo "\$ tar -c . | caissonctl image import - debian"
    tar -C "$system" --numeric-owner -c . | ctl image import - debian
    find_daemon
    shown image ls
    claim "the archive of the system is an image now" says_of 'debian +latest .*'
    # What is in quotes is for the shell in the container.
    # shellcheck disable=SC2016
    shown run --name changes "${options[@]}" debian \
        sh -c '. /etc/os-release; echo "$PRETTY_NAME, $(ls /sys/class/net)"; cd /sys/fs/cgroup
for file in cpu.max memory.max pids.max io.max; do [ ! -e $file ] || echo "$file: $(cat $file)"; done; echo >/srv/file; rm /etc/issue'
    claim "it was the system, with no network" says_of 'Debian GNU/Linux .*, lo'
    for limit in "${limits[@]}"; do claim "its limit was in force: $limit" says "$limit"; done
    shown diff changes
    claim "what it wrote is told" says 'A /srv/file'
    claim "... and what it removed" says 'D /etc/issue'

    heading "A container outlives the daemon"
    mkfifo "$work/in" "$work/out"
    # shellcheck disable=SC2016
    shown run --detach --name lasting --volume "$work:/demo" debian \
        sh -c 'echo "before"; read word </demo/in; echo "$word"; echo "$word" >/demo/out; exit 7'
    id=$(ctl inspect --format '{{.Id}}' lasting)
    shown ps
    claim "it runs" says_of '.* Up .* lasting'
    echo "\$ kill -KILL $daemon"
    signal_daemon KILL
    echo "while there was none" >"$work/in"
    read -r answer <"$work/out"
    claim "it went on without a daemon" test "$answer" == "while there was none"
    shown wait lasting
    find_daemon
    claim "the next daemon knows how it ended" says 7
    shown logs lasting
    claim "... and all that it wrote" test "$(<"$work/seen")" == $'before\nwhile there was none'

    shown rm changes lasting
    echo "\$ kill $daemon"
    signal_daemon TERM
    cat /proc/self/mountinfo >"$work/mounts-after"
    [[ -z $new_group ]] || rmdir "$group"
    claim "nothing is left: no mount" same mounts-before mounts-after
    claim "... no cgroup" test ! -e "$group/$id"
    claim "... no process" test -z "$(processes)"
    claim "... no bundle, no state of the runtime's and no socket" test -z "$(find "$state"/{bundles,s,runtimes/*} -mindepth 1)" -a \
        ! -e "$state/caissond.sock"
}
