/* A stand-in for NVIDIA's management library, so that the real nvidia-ml-py can be tested without a GPU.

   Every value comes from the text file that NVML_STAND_IN_STATE names, read again at every call, so that a test changes
   it live. Lines of the file, all optional; values are in NVML's own units:

     gpus=8                              how many GPUs there are
     now_s=12.5                          the clock of the energy counters; without it, the monotonic clock
     gpu.temperature=40                  a value of every GPU
     gpu.3.temperature=80                the same of GPU 3 alone, which comes first
     gpu.0.processes=100:1048576 200:64  process number : bytes
     gpu.0.mig=1                         GPU 0 is partitioned; it has places for MAX_INSTANCES instances, of which
     gpu.0.mig.2.uuid=MIG-...            those exist that have a UUID; memory, name, processes, gpu_instance and
     gpu.0.mig.2.memory_total=1048576    compute_instance are told of them too, everything else is not supported
     error.FUNCTION=3                    the code that a function returns (3 not supported, 15 GPU is lost)
     error.3.FUNCTION=15                 the same for GPU 3 alone; FUNCTION may be "all"
     delay_us.FUNCTION=20000             how long a function sleeps

   Power is power_mw + swing_mw * sin(2 pi t / period_s), and the energy counter its exact integral from 0 to t, in mJ,
   plus energy_offset_mj, modulo energy_modulo_mj if there is one. The counters of the NVLinks are nvlink_rx_kib and
   nvlink_tx_kib; a GPU without such lines has no NVLink. */

#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_GPUS = 64, MAX_INSTANCES = 7 };
enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, LOST = 15 };
enum { NVLINK_TX = 138, NVLINK_RX = 139, UNSIGNED_LONG_LONG = 3 }; /* field numbers, and the type of their values */

typedef struct { char text[32768]; } State;
typedef struct { char index; } *Device;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory_v2;
typedef struct { unsigned version, sensor; int temperature; } Temperature;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } Process;
typedef struct { char legacy_id[16]; unsigned domain, bus, device, device_id, subsystem_id; char id[32]; } Pci;

typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type, code;
    unsigned long long value;
} FieldValue;

static char devices[MAX_GPUS], instances[MAX_GPUS * MAX_INSTANCES];

static int is_instance(Device device)
{
    return (char *)device >= instances && (char *)device < instances + sizeof instances;
}

static int instance_of(Device device) { return is_instance(device) ? (int)((char *)device - instances) : -1; }

static int gpu_of(Device device)
{
    return is_instance(device) ? instance_of(device) / MAX_INSTANCES : (int)((char *)device - devices);
}

static const char *find(const State *state, const char *format, ...)
{
    char needle[160] = "\n";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(needle + 1, sizeof needle - 1, format, arguments);
    va_end(arguments);
    const char *line = strstr(state->text, needle);
    return line ? line + strlen(needle) : NULL;
}

static const char *reading(const State *state, int gpu, const char *name)
{
    const char *value = find(state, "gpu.%d.%s=", gpu, name);
    return value ? value : find(state, "gpu.%s=", name);
}

static double number(const State *state, int gpu, const char *name)
{
    const char *value = reading(state, gpu, name);
    return value ? strtod(value, NULL) : 0.0;
}

/* A value of a GPU, or of an instance, which has only its own. */
static const char *own_reading(const State *state, Device device, const char *name)
{
    if (!is_instance(device)) return reading(state, gpu_of(device), name);
    return find(state, "gpu.%d.mig.%d.%s=", gpu_of(device), instance_of(device) % MAX_INSTANCES, name);
}

static double own_number(const State *state, Device device, const char *name)
{
    const char *value = own_reading(state, device, name);
    return value ? strtod(value, NULL) : 0.0;
}

static int copy(const char *value, char *out, unsigned size)
{
    snprintf(out, size, "%.*s", value ? (int)strcspn(value, "\n") : 0, value ? value : "");
    return SUCCESS;
}

static int text(const State *state, int gpu, const char *name, char *out, unsigned size)
{
    return copy(reading(state, gpu, name), out, size);
}

/* Reads the state and returns the code that the caller is to answer with. */
static int enter(State *state, int gpu, const char *function)
{
    const char *path = getenv("NVML_STAND_IN_STATE");
    int file = path ? open(path, O_RDONLY) : -1;
    ssize_t size = file < 0 ? 0 : read(file, state->text + 1, sizeof state->text - 2);
    if (file >= 0) close(file);
    state->text[0] = '\n';
    state->text[1 + (size > 0 ? size : 0)] = '\0';
    const char *delay = find(state, "delay_us.%s=", function);
    if (delay) usleep((useconds_t)strtol(delay, NULL, 10));
    const char *code = find(state, "error.%d.%s=", gpu, function);
    if (!code) code = find(state, "error.%d.all=", gpu);
    if (!code) code = find(state, "error.%s=", function);
    return code ? (int)strtol(code, NULL, 10) : SUCCESS;
}

#define ENTER(gpu)                             \
    State state;                               \
    int code = enter(&state, gpu, __func__);   \
    if (code != SUCCESS) return code

/* The same of a function that answers for whole GPUs only. */
#define ENTER_GPU(device)                             \
    if (is_instance(device)) return NOT_SUPPORTED;    \
    ENTER(gpu_of(device))

static int gpu_count(const State *state)
{
    const char *value = find(state, "gpus=");
    return value ? (int)strtol(value, NULL, 10) : 0;
}

/* The library itself */

int nvmlInitWithFlags(unsigned flags) { (void)flags; ENTER(-1); return SUCCESS; }
int nvmlShutdown(void) { ENTER(-1); return SUCCESS; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "error of the stand-in"; }

int nvmlSystemGetDriverVersion(char *out, unsigned size)
{
    ENTER(-1);
    return text(&state, -1, "driver", out, size);
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    ENTER(-1);
    *version = (int)number(&state, -1, "cuda_driver");
    return SUCCESS;
}

/* Finding a GPU */

int nvmlDeviceGetCount_v2(unsigned *count)
{
    ENTER(-1);
    *count = (unsigned)gpu_count(&state);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device)
{
    ENTER((int)index);
    if ((int)index >= gpu_count(&state)) return INVALID_ARGUMENT;
    *device = (Device)(devices + index);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device *device)
{
    ENTER(-1);
    for (int gpu = 0; gpu < gpu_count(&state); gpu++) {
        char name[96];
        text(&state, gpu, "uuid", name, sizeof name);
        if (strcmp(uuid, name)) continue;
        if (find(&state, "error.%d.all=", gpu)) return LOST;
        *device = (Device)(devices + gpu);
        return SUCCESS;
    }
    for (int place = 0; place < gpu_count(&state) * MAX_INSTANCES; place++) {
        char name[96];
        copy(own_reading(&state, (Device)(instances + place), "uuid"), name, sizeof name);
        if (strcmp(uuid, name)) continue;
        if (find(&state, "error.%d.all=", place / MAX_INSTANCES)) return LOST;
        *device = (Device)(instances + place);
        return SUCCESS;
    }
    return NOT_FOUND;
}

/* The instances of a partitioned GPU */

int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *count)
{
    ENTER_GPU(device);
    *count = MAX_INSTANCES;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *instance)
{
    ENTER_GPU(device);
    *instance = (Device)(instances + gpu_of(device) * MAX_INSTANCES + index);
    return index < MAX_INSTANCES && own_reading(&state, *instance, "uuid") ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device instance, Device *device)
{
    ENTER(gpu_of(instance));
    if (!is_instance(instance)) return INVALID_ARGUMENT;
    *device = (Device)(devices + gpu_of(instance));
    return SUCCESS;
}

#define INSTANCE_NUMBER(function, name)                            \
    int function(Device device, unsigned *value)                  \
    {                                                             \
        ENTER(gpu_of(device));                                    \
        if (!is_instance(device)) return NOT_SUPPORTED;           \
        *value = (unsigned)own_number(&state, device, name);      \
        return SUCCESS;                                           \
    }

INSTANCE_NUMBER(nvmlDeviceGetGpuInstanceId, "gpu_instance")
INSTANCE_NUMBER(nvmlDeviceGetComputeInstanceId, "compute_instance")

/* What a GPU is */

int nvmlDeviceGetIndex(Device device, unsigned *index)
{
    ENTER(gpu_of(device));
    *index = (unsigned)gpu_of(device);
    return SUCCESS;
}

int nvmlDeviceGetName(Device device, char *out, unsigned size)
{
    ENTER(gpu_of(device));
    return copy(own_reading(&state, device, "name"), out, size);
}

int nvmlDeviceGetUUID(Device device, char *out, unsigned size)
{
    ENTER(gpu_of(device));
    return copy(own_reading(&state, device, "uuid"), out, size);
}

int nvmlDeviceGetPciInfo_v3(Device device, Pci *pci)
{
    ENTER_GPU(device);
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned)gpu_of(device) + 1;
    snprintf(pci->legacy_id, sizeof pci->legacy_id, "0000:%02X:00.0", pci->bus);
    snprintf(pci->id, sizeof pci->id, "00000000:%02X:00.0", pci->bus);
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(Device device, int *major, int *minor)
{
    ENTER_GPU(device);
    int tenths = (int)number(&state, gpu_of(device), "compute_capability_tenths");
    *major = tenths / 10;
    *minor = tenths % 10;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending)
{
    ENTER_GPU(device);
    *current = *pending = (unsigned)number(&state, gpu_of(device), "mig");
    return SUCCESS;
}

/* What a GPU does */

#define COUNT_FUNCTION(function, name)                            \
    int function(Device device, unsigned *value)                  \
    {                                                             \
        ENTER_GPU(device);                                    \
        *value = (unsigned)number(&state, gpu_of(device), name);  \
        return SUCCESS;                                           \
    }

COUNT_FUNCTION(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
COUNT_FUNCTION(nvmlDeviceGetFanSpeed, "fan_percent")

#define CHOICE_FUNCTION(function, first, second)                                        \
    int function(Device device, unsigned which, unsigned *value)                        \
    {                                                                                   \
        ENTER_GPU(device);                                                          \
        *value = (unsigned)number(&state, gpu_of(device), (which & 1) ? first : second); \
        return SUCCESS;                                                                 \
    }

CHOICE_FUNCTION(nvmlDeviceGetTemperature, "temperature", "temperature")
CHOICE_FUNCTION(nvmlDeviceGetClockInfo, "sm_clock_mhz", "memory_clock_mhz")
CHOICE_FUNCTION(nvmlDeviceGetMaxClockInfo, "max_sm_clock_mhz", "max_memory_clock_mhz")
CHOICE_FUNCTION(nvmlDeviceGetPcieThroughput, "pcie_rx_kb_s", "pcie_tx_kb_s")

int nvmlDeviceGetTemperatureV(Device device, Temperature *temperature)
{
    ENTER_GPU(device);
    if (temperature->version != 0x100000C) return INVALID_ARGUMENT;
    temperature->temperature = (int)number(&state, gpu_of(device), "temperature");
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Device device, unsigned long long *reasons)
{
    ENTER_GPU(device);
    *reasons = (unsigned long long)number(&state, gpu_of(device), "clocks_event_reasons");
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device device, unsigned long long *reasons)
{
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}

int nvmlDeviceGetFieldValues(Device device, int count, FieldValue *values)
{
    ENTER_GPU(device);
    for (int i = 0; i < count; i++) {
        int is_link = (values[i].field == NVLINK_RX || values[i].field == NVLINK_TX) && values[i].scope == ~0u;
        const char *name = values[i].field == NVLINK_RX ? "nvlink_rx_kib" : "nvlink_tx_kib";
        const char *counter = is_link ? reading(&state, gpu_of(device), name) : NULL;
        values[i].code = counter ? SUCCESS : NOT_SUPPORTED;
        values[i].type = UNSIGNED_LONG_LONG;
        values[i].value = counter ? strtoull(counter, NULL, 10) : 0;
    }
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device device, Utilization *rates)
{
    ENTER_GPU(device);
    rates->gpu = (unsigned)number(&state, gpu_of(device), "utilization");
    rates->memory = (unsigned)number(&state, gpu_of(device), "memory_utilization");
    return SUCCESS;
}

/* As in the driver, the first version counts what the driver reserves as used, the second does not. */
int nvmlDeviceGetMemoryInfo(Device device, Memory *memory)
{
    ENTER(gpu_of(device));
    double used = own_number(&state, device, "memory_used") + own_number(&state, device, "memory_reserved");
    memory->total = (unsigned long long)own_number(&state, device, "memory_total");
    memory->used = (unsigned long long)used;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device device, Memory_v2 *memory)
{
    ENTER(gpu_of(device));
    if (memory->version != 0x02000028) return INVALID_ARGUMENT;
    memory->total = (unsigned long long)own_number(&state, device, "memory_total");
    memory->used = (unsigned long long)own_number(&state, device, "memory_used");
    memory->reserved = (unsigned long long)own_number(&state, device, "memory_reserved");
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned *count, Process *processes)
{
    ENTER(gpu_of(device));
    char list[4096];
    unsigned found = 0, room = processes ? *count : 0;
    copy(own_reading(&state, device, "processes"), list, sizeof list);
    for (char *rest = list, *end; *rest; rest = end + (*end == ' '), found++) {
        unsigned pid = (unsigned)strtoul(rest, &end, 10);
        unsigned long long bytes = *end == ':' ? strtoull(end + 1, &end, 10) : 0;
        if (end == rest) break;
        if (found < room) processes[found] = (Process){pid, bytes, ~0u, ~0u};
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

/* Power and energy */

typedef struct { double now, base, swing, omega; } Power;

static Power power_of(const State *state, int gpu)
{
    const char *clock = find(state, "now_s=");
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    double period = number(state, gpu, "period_s");
    return (Power){
        clock ? strtod(clock, NULL) : (double)time.tv_sec + (double)time.tv_nsec / 1e9,
        number(state, gpu, "power_mw"),
        number(state, gpu, "swing_mw"),
        period > 0 ? 2 * acos(-1.0) / period : 0,
    };
}

int nvmlDeviceGetPowerUsage(Device device, unsigned *milliwatts)
{
    ENTER_GPU(device);
    Power power = power_of(&state, gpu_of(device));
    *milliwatts = (unsigned)(power.base + power.swing * sin(power.omega * power.now) + 0.5);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long *millijoules)
{
    ENTER_GPU(device);
    Power power = power_of(&state, gpu_of(device));
    double swung = power.omega > 0 ? power.swing / power.omega * (1 - cos(power.omega * power.now)) : 0;
    double modulo = number(&state, gpu_of(device), "energy_modulo_mj");
    double energy = power.base * power.now + swung + number(&state, gpu_of(device), "energy_offset_mj");
    *millijoules = (unsigned long long)(modulo > 0 ? fmod(energy, modulo) : energy);
    return SUCCESS;
}
