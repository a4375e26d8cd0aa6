/* A fake libcuda for the tests: the calls that minedraft.channel.cuda_driver makes, over files in a shared folder.
 *
 * "Device memory" is a mapped file, so that two processes can share it as they would share a GPU's. Every rule below is
 * one that the CUDA driver API documents, in cuda.h or in its reference pages, or, where it says so, one that was
 * reported by others. A call that breaks a rule fails with the documented error; a breach that a real driver leaves
 * undefined or lets pass is written to the file "violations" besides, which the tests must find empty.
 *
 * fake_configure must come before cuInit. Two copies of this library in one process are two processes to each other.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_MAP_FAILED = 205,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_UNKNOWN = 999,
};

typedef uint64_t CUdeviceptr;
typedef int CUdevice;
typedef void *CUcontext;
typedef struct { unsigned char reserved[64]; } CUipcMemHandle;
typedef struct { unsigned char bytes[16]; } CUuuid;

#define LAZY_ENABLE_PEER_ACCESS 1
#define DEVICES 4
#define ALLOCATIONS 64
#define IMPORTS 8
#define MAPPINGS 64
#define STACK 16
#define HANDLE_MAGIC "FAKEIPC"

typedef struct {
    int process, pid, count;
} Import;

typedef struct {
    int alive, process, pid;
    CUuuid uuid;
    uint64_t nbytes, number;
    Import imports[IMPORTS];
} Allocation;

typedef struct {
    uint64_t allocated; /* so far: numbers allocations, so that no handle ever comes twice */
    Allocation allocations[ALLOCATIONS];
} Registry;

typedef struct {
    char magic[8];
    int32_t place;
    int32_t padding;
    uint64_t number;
} Handle;

typedef struct {
    int retained;
    CUuuid uuid;
} Context;

typedef struct {
    CUdeviceptr address; /* 0: unused */
    uint64_t nbytes, number;
    int place, owned, opened, ordinal;
} Mapping;

static char folder[512];
static int process, devices, initialised, registry_file = -1;
static uint64_t limit;
static Registry *registry;
static Context contexts[DEVICES];
static Mapping mappings[MAPPINGS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static __thread Context *stack[STACK];
static __thread int depth;

/* One caller at a time, of all threads and processes. flock lets go when a process is killed. */
static void lock(void) {
    pthread_mutex_lock(&mutex);
    flock(registry_file, LOCK_EX);
}

static int unlock(int result) {
    flock(registry_file, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    return result;
}

static void violation(const char *rule) {
    char path[600], line[300];
    snprintf(path, sizeof path, "%s/violations", folder);
    int length = snprintf(line, sizeof line, "process %d: %s\n", process, rule);
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file >= 0) {
        if (write(file, line, length) != length) _exit(99);
        close(file);
    }
}

/* Whether a process can still use memory: a killed one that waits to be reaped cannot. */
static int alive(int pid) {
    char path[64], text[512], state = 'Z';
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    char *end = strrchr(text, ')');
    if (end) sscanf(end + 1, " %c", &state);
    return state != 'Z' && state != 'X';
}

static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

static Mapping *find(CUdeviceptr address) {
    for (int i = 0; i < MAPPINGS; i++)
        if (mappings[i].address && mappings[i].address == address) return &mappings[i];
    return NULL;
}

static Mapping *unused(void) {
    for (int i = 0; i < MAPPINGS; i++)
        if (!mappings[i].address) return &mappings[i];
    return NULL;
}

static void data_path(char *path, size_t size, uint64_t number) {
    snprintf(path, size, "%s/memory-%llu", folder, (unsigned long long)number);
}

static void *map_file(uint64_t number, uint64_t nbytes, int create) {
    char path[600];
    data_path(path, sizeof path, number);
    int file = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_EXCL : 0), 0600);
    if (file < 0) return MAP_FAILED;
    if (create && ftruncate(file, nbytes)) { close(file); return MAP_FAILED; }
    void *memory = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return memory;
}

/* cuInit: "If cuInit() has not been called, any function from the driver API will return
 * CUDA_ERROR_NOT_INITIALIZED." */
#define REQUIRE_INIT() if (!initialised) return CUDA_ERROR_NOT_INITIALIZED
/* Each memory call lists CUDA_ERROR_INVALID_CONTEXT: there must be a current context, and it must be alive. */
#define REQUIRE_CONTEXT() \
    REQUIRE_INIT(); \
    if (!current() || !current()->retained) return CUDA_ERROR_INVALID_CONTEXT

/* ---- the tests' own calls ---- */

int fake_configure(const char *shared_folder, int process_number, int device_count, const CUuuid *uuids, uint64_t bytes) {
    char path[600];
    if (initialised || device_count > DEVICES) return CUDA_ERROR_INVALID_VALUE;
    snprintf(folder, sizeof folder, "%s", shared_folder);
    process = process_number;
    devices = device_count;
    limit = bytes;
    for (int i = 0; i < devices; i++) contexts[i].uuid = uuids[i];
    snprintf(path, sizeof path, "%s/registry", folder);
    registry_file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (registry_file < 0 || ftruncate(registry_file, sizeof(Registry))) return CUDA_ERROR_UNKNOWN;
    registry = mmap(NULL, sizeof(Registry), PROT_READ | PROT_WRITE, MAP_SHARED, registry_file, 0);
    return registry == MAP_FAILED ? CUDA_ERROR_UNKNOWN : CUDA_SUCCESS;
}

/* Leak detection: what this process has allocated and not freed, opened and not closed, retained and not released. */
void fake_held(int *allocated, int *opened, int *retained) {
    lock();
    *allocated = *opened = *retained = 0;
    for (int i = 0; i < MAPPINGS; i++) {
        if (!mappings[i].address) continue;
        if (mappings[i].owned) (*allocated)++;
        else *opened += mappings[i].opened;
    }
    for (int i = 0; i < devices; i++) *retained += contexts[i].retained;
    unlock(0);
}

/* ---- the driver's ---- */

int cuInit(unsigned int flags) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE; /* cuInit: "Currently, the Flags parameter must be 0." */
    if (!registry) return CUDA_ERROR_UNKNOWN;
    initialised = 1;
    return CUDA_SUCCESS;
}

int cuDriverGetVersion(int *version) {
    *version = 13000; /* cuDriverGetVersion: 1000 * major + 10 * minor */
    return CUDA_SUCCESS;
}

int cuGetErrorName(int error, const char **name) {
    switch (error) {
        case CUDA_SUCCESS: *name = "CUDA_SUCCESS"; break;
        case CUDA_ERROR_INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
        case CUDA_ERROR_OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case CUDA_ERROR_NOT_INITIALIZED: *name = "CUDA_ERROR_NOT_INITIALIZED"; break;
        case CUDA_ERROR_INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
        case CUDA_ERROR_INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
        case CUDA_ERROR_MAP_FAILED: *name = "CUDA_ERROR_MAP_FAILED"; break;
        case CUDA_ERROR_INVALID_HANDLE: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
        case CUDA_ERROR_UNKNOWN: *name = "CUDA_ERROR_UNKNOWN"; break;
        /* cuGetErrorName: "If the error code is not recognized, CUDA_ERROR_INVALID_VALUE will be returned and *pStr
         * will be set to the NULL address." */
        default: *name = NULL; return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

int cuDeviceGetCount(int *count) {
    REQUIRE_INIT();
    *count = devices;
    return CUDA_SUCCESS;
}

int cuDeviceGet(CUdevice *device, int ordinal) {
    REQUIRE_INIT();
    /* cuDeviceGet: "in the range [0, cuDeviceGetCount()-1]" */
    if (ordinal < 0 || ordinal >= devices) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

int cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    REQUIRE_INIT();
    if (device < 0 || device >= devices) return CUDA_ERROR_INVALID_DEVICE;
    *uuid = contexts[device].uuid;
    return CUDA_SUCCESS;
}

int cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    REQUIRE_INIT();
    if (device < 0 || device >= devices) return CUDA_ERROR_INVALID_DEVICE;
    lock();
    contexts[device].retained++; /* "Unlike cuCtxCreate() the newly retained context is not pushed onto the stack." */
    *context = &contexts[device];
    return unlock(CUDA_SUCCESS);
}

int cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    REQUIRE_INIT();
    if (device < 0 || device >= devices) return CUDA_ERROR_INVALID_DEVICE;
    lock();
    /* "Releasing a primary context that has not been previously retained will fail with
     * CUDA_ERROR_INVALID_CONTEXT." */
    if (!contexts[device].retained) {
        violation("cuDevicePrimaryCtxRelease of a context that is not retained");
        return unlock(CUDA_ERROR_INVALID_CONTEXT);
    }
    /* "The context is automatically reset once the last reference to it is released": with all that is in it. */
    if (--contexts[device].retained == 0)
        for (int i = 0; i < MAPPINGS; i++)
            if (mappings[i].address && mappings[i].ordinal == device)
                violation("cuDevicePrimaryCtxRelease reset a context that still held memory");
    return unlock(CUDA_SUCCESS);
}

int cuCtxPushCurrent_v2(CUcontext context) {
    REQUIRE_INIT();
    Context *pushed = context;
    if (!pushed || pushed < contexts || pushed >= contexts + devices || !pushed->retained)
        return CUDA_ERROR_INVALID_CONTEXT; /* a context that is not alive */
    if (depth == STACK) return CUDA_ERROR_INVALID_VALUE;
    stack[depth++] = pushed;
    return CUDA_SUCCESS;
}

int cuCtxPopCurrent_v2(CUcontext *context) {
    REQUIRE_INIT();
    if (!depth) { /* "Pops the current CUDA context from the current CPU thread": there must be one */
        violation("cuCtxPopCurrent without a current context");
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    *context = stack[--depth];
    return CUDA_SUCCESS;
}

int cuCtxSynchronize(void) {
    REQUIRE_CONTEXT();
    return CUDA_SUCCESS; /* all work here is done when its call returns */
}

int cuMemAlloc_v2(CUdeviceptr *address, size_t nbytes) {
    REQUIRE_CONTEXT();
    if (!nbytes) return CUDA_ERROR_INVALID_VALUE; /* "If bytesize is 0, cuMemAlloc() returns CUDA_ERROR_INVALID_VALUE." */
    if (nbytes > limit) return CUDA_ERROR_OUT_OF_MEMORY;
    lock();
    Mapping *mapping = unused();
    int place = 0;
    while (place < ALLOCATIONS && registry->allocations[place].number) place++;
    if (!mapping || place == ALLOCATIONS) return unlock(CUDA_ERROR_OUT_OF_MEMORY);
    uint64_t number = ++registry->allocated;
    void *memory = map_file(number, nbytes, 1);
    if (memory == MAP_FAILED) return unlock(CUDA_ERROR_OUT_OF_MEMORY);
    memset(memory, 0xCD, nbytes < 65536 ? nbytes : 65536); /* "The memory is not cleared." */
    *mapping = (Mapping){(CUdeviceptr)memory, nbytes, number, place, 1, 0, (int)(current() - contexts)};
    registry->allocations[place] = (Allocation){1, process, getpid(), current()->uuid, nbytes, number, {{0}}};
    *address = mapping->address;
    return unlock(CUDA_SUCCESS);
}

int cuMemFree_v2(CUdeviceptr address) {
    REQUIRE_CONTEXT();
    lock();
    Mapping *mapping = find(address);
    /* cuMemFree: the pointer "must have been returned by" cuMemAlloc; cuIpcOpenMemHandle: memory from it "must be freed
     * with cuIpcCloseMemHandle". Also catches a second cuMemFree. */
    if (!mapping || !mapping->owned) {
        violation("cuMemFree of what cuMemAlloc did not return, or twice");
        return unlock(CUDA_ERROR_INVALID_VALUE);
    }
    Allocation *allocation = &registry->allocations[mapping->place];
    /* cuIpcOpenMemHandle: "Calling cuMemFree on an exported memory region before calling cuIpcCloseMemHandle in the
     * importing context will result in undefined behavior." A process that died has closed everything. */
    for (int i = 0; i < IMPORTS; i++)
        if (allocation->imports[i].count && alive(allocation->imports[i].pid))
            violation("cuMemFree of memory that an importer has open");
    char path[600];
    data_path(path, sizeof path, mapping->number);
    unlink(path);
    munmap((void *)mapping->address, mapping->nbytes); /* a use after this is a segmentation fault */
    *allocation = (Allocation){0};
    *mapping = (Mapping){0};
    return unlock(CUDA_SUCCESS);
}

int cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr address) {
    REQUIRE_CONTEXT();
    lock();
    Mapping *mapping = find(address);
    /* "Takes a pointer to the base of an existing device memory allocation created with cuMemAlloc" */
    if (!mapping || !mapping->owned) {
        violation("cuIpcGetMemHandle of an address that is no allocation's base");
        return unlock(CUDA_ERROR_INVALID_VALUE);
    }
    Handle content = {HANDLE_MAGIC, mapping->place, 0, mapping->number};
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &content, sizeof content);
    return unlock(CUDA_SUCCESS);
}

static int visible(CUuuid uuid) {
    for (int i = 0; i < devices; i++)
        if (!memcmp(&contexts[i].uuid, &uuid, sizeof uuid)) return 1;
    return 0;
}

int cuIpcOpenMemHandle_v2(CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags) {
    REQUIRE_CONTEXT();
    /* Flags "Must be specified as CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS" */
    if (flags != LAZY_ENABLE_PEER_ACCESS) return CUDA_ERROR_INVALID_VALUE;
    Handle content;
    memcpy(&content, &handle, sizeof content);
    if (memcmp(content.magic, HANDLE_MAGIC, 8) || content.place < 0 || content.place >= ALLOCATIONS)
        return CUDA_ERROR_INVALID_HANDLE;
    lock();
    Allocation *allocation = &registry->allocations[content.place];
    /* cuIpcGetMemHandle: a region that is allocated after a free gets a unique handle, so a freed one's opens nothing.
     * The memory of a process that died is gone too. */
    if (allocation->number != content.number || !allocation->alive || !alive(allocation->pid))
        return unlock(CUDA_ERROR_INVALID_HANDLE);
    /* "exported from another process": within one, it fails with 201 (reported, openucx pull request 11603) */
    if (allocation->process == process) return unlock(CUDA_ERROR_INVALID_CONTEXT);
    /* Reported: an importer that does not see the exporter's GPU gets 201, or 1 */
    if (!visible(allocation->uuid)) return unlock(CUDA_ERROR_INVALID_CONTEXT);
    Import *import = NULL;
    for (int i = 0; i < IMPORTS && !import; i++)
        if (allocation->imports[i].count && allocation->imports[i].process == process) import = &allocation->imports[i];
    for (int i = 0; i < IMPORTS && !import; i++)
        if (!allocation->imports[i].count) import = &allocation->imports[i];
    if (!import) return unlock(CUDA_ERROR_MAP_FAILED);
    /* "If the memory handle has already been opened by the current context, the reference count on the handle is
     * incremented by 1 and the existing device pointer is returned." */
    for (int i = 0; i < MAPPINGS; i++) {
        Mapping *mapping = &mappings[i];
        if (!mapping->address || mapping->owned || mapping->number != content.number) continue;
        /* "CUipcMemHandles from each CUdevice in a given process may only be opened by one CUcontext per CUdevice per
         * other process." */
        if (mapping->ordinal != current() - contexts) return unlock(CUDA_ERROR_INVALID_CONTEXT);
        mapping->opened++;
        import->count++;
        *address = mapping->address;
        return unlock(CUDA_SUCCESS);
    }
    Mapping *mapping = unused();
    void *memory = mapping ? map_file(content.number, allocation->nbytes, 0) : MAP_FAILED;
    if (memory == MAP_FAILED) return unlock(CUDA_ERROR_MAP_FAILED);
    int ordinal = (int)(current() - contexts);
    *mapping = (Mapping){(CUdeviceptr)memory, allocation->nbytes, content.number, content.place, 0, 1, ordinal};
    *import = (Import){process, getpid(), 1};
    *address = mapping->address;
    return unlock(CUDA_SUCCESS);
}

int cuIpcCloseMemHandle(CUdeviceptr address) {
    REQUIRE_CONTEXT();
    lock();
    Mapping *mapping = find(address);
    /* dptr: "Device pointer returned by cuIpcOpenMemHandle". Also catches one close too many. */
    if (!mapping || mapping->owned) {
        violation("cuIpcCloseMemHandle of what cuIpcOpenMemHandle did not return, or too often");
        return unlock(CUDA_ERROR_INVALID_VALUE);
    }
    Allocation *allocation = &registry->allocations[mapping->place];
    for (int i = 0; i < IMPORTS && allocation->number == mapping->number; i++)
        if (allocation->imports[i].count && allocation->imports[i].process == process) allocation->imports[i].count--;
    /* "When the reference count reaches 0, this API unmaps the memory." */
    if (--mapping->opened == 0) {
        munmap((void *)mapping->address, mapping->nbytes);
        *mapping = (Mapping){0};
    }
    return unlock(CUDA_SUCCESS);
}
