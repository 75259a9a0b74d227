"""What the student's process gives up for good, before the first student's line is read (Linux).

Applied from inside, in this order: die with the grader, another user, no capabilities, no new privileges, resource
limits, Landlock (no file outside a list, no TCP, no signals outwards) and a seccomp filter (no new process, no socket
but a local pair, no signal to anybody else, no tracing). All of it is irreversible and none of it needs root, so it
also protects where bubblewrap may not run. The last two are used if the kernel has them; what is in force is reported.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
READ_FILE, READ_DIR, EXECUTE, WRITE_FILE = 1 << 2, 1 << 3, 1 << 0, 1 << 1
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # what may be granted on something not a folder

# Numbers of the calls that are refused (linux/arch/*/include/uapi/asm/unistd*.h): x86_64, aarch64.
REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "tkill": (200, 130),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    # Memory that belongs to no process, so that no limit of a process counts it.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # Sockets by name, those of other programs on this machine included; a connected pair needs none of these calls.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    # What a process may do to others of the same user.
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    # Changes to files that Landlock does not cover: modes, owners, times, attributes.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "fork": (57, None),
    "vfork": (58, None),
}
SIGNALS = {"kill": (62, 129), "tgkill": (234, 131)}
CLONE, CLONE3, SOCKETPAIR, PRLIMIT = (56, 220), (435, 435), (53, 199), (302, 261)
CLONE_THREAD = 0x10000
NOT_STREAM = 0x6  # bits of every other type of socket: those can send to a name without a connection
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOSYS = 1, 38


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def set_limits(limits: dict[str, int]) -> None:
    """Lower the resource limits; keys are names of `resource.RLIMIT_*` without the prefix, e.g. {"CPU": 60}."""
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(number, (value, value))


def become(uid: int) -> None:
    """Continue as another user with no groups of its own; needs root."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """Give up every capability, also as root, and the right to gain one by executing something."""
    for capability in range(64):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused to ordinary users, who have none to lose
    header = struct.pack("Ii", 0x20080522, 0)
    _check(LIBC.capset(header, struct.pack("6I", 0, 0, 0, 0, 0, 0)), "capset")
    _check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def landlock_version() -> int:
    """Version of the kernel's Landlock interface, 0 if there is none."""
    return max(0, LIBC.syscall(SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def restrict_files(readable: list[str], writable: list[str]) -> str:
    """Landlock: read (and execute) beneath `readable`, everything beneath `writable`, nothing elsewhere."""
    version = landlock_version()
    if version == 0:
        return ""
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    network = 0b11 if version >= 4 else 0
    scoped = 0b11 if version >= 6 else 0
    attributes = struct.pack("QQQ", handled, network, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = LIBC.syscall(SYS_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for paths, rights in ((readable, EXECUTE | READ_FILE | READ_DIR), (writable, handled)):
        for path in paths:
            _allow_beneath(ruleset, path, rights & handled)
    _check(LIBC.syscall(SYS_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)
    return f"landlock v{version}"


def _allow_beneath(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):  # nothing there that this process could read anyway
        return
    if not os.path.isdir(path):
        rights &= FILE_RIGHTS
    _check(LIBC.syscall(SYS_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, fd), 0), f"landlock rule for {path}")
    os.close(fd)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _filter_program(column: int, audit_arch: int, own_pid: int) -> bytes:
    """The BPF program: each rule jumps over its own return when it does not apply."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    number, arch, first_argument, second_argument = 0, 4, 16, 24
    program = [_instruction(load, arch), _instruction(equal, audit_arch, 1, 0), _instruction(give, KILL)]
    program += [_instruction(load, number), _instruction(at_least, 0x40000000, 0, 1), _instruction(give, KILL)]
    for numbers in REFUSED.values():
        if numbers[column] is not None:
            program += [_instruction(equal, numbers[column], 0, 1), _instruction(give, ERRNO | EPERM)]
    # clone3 hides its flags in memory; "not implemented" makes the C library fall back to clone, which is checked.
    program += [_instruction(equal, CLONE3[column], 0, 1), _instruction(give, ERRNO | ENOSYS)]
    allowed_arguments = [(CLONE[column], any_bit, CLONE_THREAD)]
    allowed_arguments += [(PRLIMIT[column], equal, 0)]  # its own limits, not another process's
    allowed_arguments += [(numbers[column], equal, own_pid) for numbers in SIGNALS.values()]
    for call, test, value in allowed_arguments:
        program += [_instruction(equal, call, 0, 4), _instruction(load, first_argument)]
        program += [_instruction(test, value, 1, 0), _instruction(give, ERRNO | EPERM), _instruction(give, ALLOW)]
    program += [_instruction(equal, SOCKETPAIR[column], 0, 4), _instruction(load, second_argument)]
    program += [_instruction(any_bit, NOT_STREAM, 0, 1), _instruction(give, ERRNO | EPERM), _instruction(give, ALLOW)]
    return b"".join([*program, _instruction(give, ALLOW)])


def restrict_calls() -> str:
    """The seccomp filter; the empty string if this machine's architecture or kernel has none."""
    if platform.machine() not in ARCHITECTURES:
        return ""
    program = ctypes.create_string_buffer(_filter_program(*ARCHITECTURES[platform.machine()], os.getpid()))
    descriptor = struct.pack("HxxxxxxP", (len(program) - 1) // 8, ctypes.addressof(program))
    if LIBC.prctl(PR_SET_SECCOMP, 2, descriptor, 0, 0) != 0:
        return ""
    return "seccomp"


def apply(settings: dict) -> list[str]:
    """Give everything up as `settings` says (uid, limits, readable, writable, landlock, seccomp); names in force."""
    in_force = ["limits"]
    if settings.get("uid"):
        become(settings["uid"])
        in_force.append("user")
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != settings.get("parent", os.getppid()):
        os._exit(1)  # the grader is gone already
    drop_capabilities()
    set_limits(settings["limits"])
    if settings.get("landlock", True):
        in_force.append(restrict_files(settings["readable"], settings["writable"]))
    if settings.get("seccomp", True):
        in_force.append(restrict_calls())
    return [name for name in in_force if name]


def readable_paths(paths: list[str]) -> list[str]:
    """Those of `paths` that this process can open or list: the proof that the grader's files are out of sight."""
    found = []
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY))
            found.append(path)
        except OSError:
            continue
    return found
