// The part of Triton's server C API that the local lane uses, declared again, as triton.h does for backends.
#pragma once

#include <cstddef>
#include <cstdint>

struct TRITONSERVER_Error;
struct TRITONSERVER_InferenceRequest;
struct TRITONSERVER_InferenceResponse;
struct TRITONSERVER_InferenceTrace;
struct TRITONSERVER_Message;
struct TRITONSERVER_ResponseAllocator;
struct TRITONSERVER_Server;

constexpr int kInternal = 1, kInvalidArgument = 3, kUnavailable = 4;
constexpr int kCpu = 0, kGpu = 2;              // TRITONSERVER_MemoryType
constexpr int kString = 0, kInteger = 1;       // TRITONSERVER_ParameterType
constexpr std::uint32_t kFinal = 1;            // TRITONSERVER_RESPONSE_COMPLETE_FINAL
constexpr std::uint32_t kReleaseAll = 1;       // TRITONSERVER_REQUEST_RELEASE_ALL
constexpr std::uint32_t kConfigVersion = 1;

extern "C" {
using Allocate = TRITONSERVER_Error* (*)(TRITONSERVER_ResponseAllocator*, const char* name, std::size_t bytes, int memory,
                                         std::int64_t memory_id, void* ours, void** buffer, void** buffers_own,
                                         int* actual_memory, std::int64_t* actual_memory_id);
using Free = TRITONSERVER_Error* (*)(TRITONSERVER_ResponseAllocator*, void* buffer, void* buffers_own, std::size_t bytes,
                                     int memory, std::int64_t memory_id);
using Released = void (*)(TRITONSERVER_InferenceRequest*, std::uint32_t flags, void* ours);
using Responded = void (*)(TRITONSERVER_InferenceResponse*, std::uint32_t flags, void* ours);

int TRITONSERVER_ErrorCode(TRITONSERVER_Error*);
const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error*);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error*);
TRITONSERVER_Error* TRITONSERVER_ErrorNew(int code, const char* text);
TRITONSERVER_Error* TRITONSERVER_ResponseAllocatorNew(TRITONSERVER_ResponseAllocator**, Allocate, Free, void* start);

TRITONSERVER_Error* TRITONSERVER_InferenceRequestNew(TRITONSERVER_InferenceRequest**, TRITONSERVER_Server*,
                                                     const char* model, std::int64_t version);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestDelete(TRITONSERVER_InferenceRequest*);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestCancel(TRITONSERVER_InferenceRequest*);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetId(TRITONSERVER_InferenceRequest*, const char* id);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(TRITONSERVER_InferenceRequest*, std::uint64_t us);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddInput(TRITONSERVER_InferenceRequest*, const char* name, int type,
                                                          const std::int64_t* shape, std::uint64_t dimensions);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAppendInputData(TRITONSERVER_InferenceRequest*, const char* name,
                                                                 const void* base, std::size_t bytes, int memory,
                                                                 std::int64_t memory_id);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestAddRequestedOutput(TRITONSERVER_InferenceRequest*, const char* name);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetReleaseCallback(TRITONSERVER_InferenceRequest*, Released, void* ours);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestSetResponseCallback(TRITONSERVER_InferenceRequest*,
                                                                     TRITONSERVER_ResponseAllocator*, void* allocators_own,
                                                                     Responded, void* ours);
TRITONSERVER_Error* TRITONSERVER_ServerInferAsync(TRITONSERVER_Server*, TRITONSERVER_InferenceRequest*,
                                                  TRITONSERVER_InferenceTrace*);

TRITONSERVER_Error* TRITONSERVER_InferenceResponseError(TRITONSERVER_InferenceResponse*);  // stays the response's
TRITONSERVER_Error* TRITONSERVER_InferenceResponseDelete(TRITONSERVER_InferenceResponse*);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseId(TRITONSERVER_InferenceResponse*, const char** id);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseModel(TRITONSERVER_InferenceResponse*, const char** name,
                                                        std::int64_t* version);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameterCount(TRITONSERVER_InferenceResponse*, std::uint32_t* count);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseParameter(TRITONSERVER_InferenceResponse*, std::uint32_t index,
                                                            const char** name, int* type, const void** value);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutputCount(TRITONSERVER_InferenceResponse*, std::uint32_t* count);
TRITONSERVER_Error* TRITONSERVER_InferenceResponseOutput(TRITONSERVER_InferenceResponse*, std::uint32_t index,
                                                         const char** name, int* type, const std::int64_t** shape,
                                                         std::uint64_t* dimensions, const void** base, std::size_t* bytes,
                                                         int* memory, std::int64_t* memory_id, void** ours);

TRITONSERVER_Error* TRITONSERVER_ServerModelConfig(TRITONSERVER_Server*, const char* model, std::int64_t version,
                                                   std::uint32_t config_version, TRITONSERVER_Message**);
TRITONSERVER_Error* TRITONSERVER_ServerModelStatistics(TRITONSERVER_Server*, const char* model, std::int64_t version,
                                                       TRITONSERVER_Message**);
TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message*, const char** base, std::size_t* bytes);
TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message*);
}
