// The part of Triton's backend C API that is used here, declared anew.
//
// Triton exports these functions from the process that loads a backend, with C linkage, so
// declarations are all that a backend needs: no header or library of Triton takes part in the build.
// Objects are opaque. An enumerator's value is part of the interface; `tests/test_native_backend.py`
// holds the ones below against a running server.
#pragma once

#include <cstddef>
#include <cstdint>

constexpr uint32_t kApiMajor = 1;
constexpr uint32_t kApiMinor = 19;  // Triton 2.51; nothing here is younger

struct TRITONSERVER_Error;
struct TRITONSERVER_Message;
struct TRITONBACKEND_Backend;
struct TRITONBACKEND_BackendAttribute;
struct TRITONBACKEND_Input;
struct TRITONBACKEND_Model;
struct TRITONBACKEND_ModelInstance;
struct TRITONBACKEND_Output;
struct TRITONBACKEND_Request;
struct TRITONBACKEND_Response;
struct TRITONBACKEND_State;

enum TRITONSERVER_ErrorCode : int {
  TRITONSERVER_ERROR_INTERNAL = 1,
  TRITONSERVER_ERROR_INVALID_ARG = 3,
  TRITONSERVER_ERROR_UNSUPPORTED = 5,
  TRITONSERVER_ERROR_CANCELLED = 7,
};
enum TRITONSERVER_DataType : int {
  TRITONSERVER_TYPE_INVALID = 0,
  TRITONSERVER_TYPE_BOOL = 1,
  TRITONSERVER_TYPE_UINT8 = 2,
  TRITONSERVER_TYPE_UINT16 = 3,
  TRITONSERVER_TYPE_UINT32 = 4,
  TRITONSERVER_TYPE_UINT64 = 5,
  TRITONSERVER_TYPE_INT8 = 6,
  TRITONSERVER_TYPE_INT16 = 7,
  TRITONSERVER_TYPE_INT32 = 8,
  TRITONSERVER_TYPE_INT64 = 9,
  TRITONSERVER_TYPE_FP16 = 10,
  TRITONSERVER_TYPE_FP32 = 11,
  TRITONSERVER_TYPE_FP64 = 12,
};
enum TRITONSERVER_MemoryType : int { TRITONSERVER_MEMORY_CPU = 0, TRITONSERVER_MEMORY_GPU = 2 };
enum TRITONSERVER_LogLevel : int { TRITONSERVER_LOG_INFO = 0, TRITONSERVER_LOG_WARN = 1, TRITONSERVER_LOG_ERROR = 2 };
enum TRITONSERVER_InstanceGroupKind : int {
  TRITONSERVER_INSTANCEGROUPKIND_CPU = 1,
  TRITONSERVER_INSTANCEGROUPKIND_GPU = 2,
};
enum TRITONBACKEND_ArtifactType : int { TRITONBACKEND_ARTIFACT_FILESYSTEM = 0 };
constexpr uint32_t TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1;
constexpr uint32_t TRITONSERVER_REQUEST_RELEASE_ALL = 1;

#define TRITON_CALL TRITONSERVER_Error*

extern "C" {

// Errors, messages, log. A null error means success; who gets an error deletes it.
TRITONSERVER_Error* TRITONSERVER_ErrorNew(TRITONSERVER_ErrorCode code, const char* text);
const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error* error);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error);
TRITON_CALL TRITONSERVER_MessageNewFromSerializedJson(TRITONSERVER_Message** message, const char* text, size_t size);
TRITON_CALL TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message* message, const char** text, size_t* size);
TRITON_CALL TRITONSERVER_MessageDelete(TRITONSERVER_Message* message);
TRITON_CALL TRITONSERVER_LogMessage(TRITONSERVER_LogLevel level, const char* file, int line, const char* text);
const char* TRITONSERVER_DataTypeString(TRITONSERVER_DataType type);
TRITONSERVER_DataType TRITONSERVER_StringToDataType(const char* text);
uint32_t TRITONSERVER_DataTypeByteSize(TRITONSERVER_DataType type);

// Backend and model.
TRITON_CALL TRITONBACKEND_ApiVersion(uint32_t* major, uint32_t* minor);
TRITON_CALL TRITONBACKEND_BackendState(TRITONBACKEND_Backend* backend, void** state);
TRITON_CALL TRITONBACKEND_BackendSetState(TRITONBACKEND_Backend* backend, void* state);
TRITON_CALL TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(TRITONBACKEND_BackendAttribute* attributes,
                                                                    TRITONSERVER_InstanceGroupKind kind,
                                                                    uint64_t count, const uint64_t* devices,
                                                                    uint64_t device_count);
TRITON_CALL TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(
    TRITONBACKEND_BackendAttribute* attributes, bool enabled);
TRITON_CALL TRITONBACKEND_ModelName(TRITONBACKEND_Model* model, const char** name);
TRITON_CALL TRITONBACKEND_ModelVersion(TRITONBACKEND_Model* model, uint64_t* version);
TRITON_CALL TRITONBACKEND_ModelRepository(TRITONBACKEND_Model* model, TRITONBACKEND_ArtifactType* type,
                                          const char** location);
TRITON_CALL TRITONBACKEND_ModelConfig(TRITONBACKEND_Model* model, uint32_t format, TRITONSERVER_Message** config);
TRITON_CALL TRITONBACKEND_ModelAutoCompleteConfig(TRITONBACKEND_Model* model, bool* wanted);
TRITON_CALL TRITONBACKEND_ModelSetConfig(TRITONBACKEND_Model* model, uint32_t format, TRITONSERVER_Message* config);
TRITON_CALL TRITONBACKEND_ModelBackend(TRITONBACKEND_Model* model, TRITONBACKEND_Backend** backend);
TRITON_CALL TRITONBACKEND_ModelState(TRITONBACKEND_Model* model, void** state);
TRITON_CALL TRITONBACKEND_ModelSetState(TRITONBACKEND_Model* model, void* state);

// Instance.
TRITON_CALL TRITONBACKEND_ModelInstanceKind(TRITONBACKEND_ModelInstance* instance, TRITONSERVER_InstanceGroupKind* kind);
TRITON_CALL TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Model** model);
TRITON_CALL TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance* instance, void** state);
TRITON_CALL TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance* instance, void* state);
TRITON_CALL TRITONBACKEND_ModelInstanceReportStatistics(TRITONBACKEND_ModelInstance* instance,
                                                        TRITONBACKEND_Request* request, bool success,
                                                        uint64_t start_ns, uint64_t compute_start_ns,
                                                        uint64_t compute_end_ns, uint64_t end_ns);
TRITON_CALL TRITONBACKEND_ModelInstanceReportBatchStatistics(TRITONBACKEND_ModelInstance* instance, uint64_t rows,
                                                             uint64_t start_ns, uint64_t compute_start_ns,
                                                             uint64_t compute_end_ns, uint64_t end_ns);

// Request.
TRITON_CALL TRITONBACKEND_RequestId(TRITONBACKEND_Request* request, const char** id);
TRITON_CALL TRITONBACKEND_RequestIsCancelled(TRITONBACKEND_Request* request, bool* cancelled);
TRITON_CALL TRITONBACKEND_RequestInput(TRITONBACKEND_Request* request, const char* name, TRITONBACKEND_Input** input);
TRITON_CALL TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request* request, uint32_t* count);
TRITON_CALL TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request* request, uint32_t index, const char** name);
TRITON_CALL TRITONBACKEND_RequestRelease(TRITONBACKEND_Request* request, uint32_t flags);
TRITON_CALL TRITONBACKEND_InputProperties(TRITONBACKEND_Input* input, const char** name, TRITONSERVER_DataType* type,
                                          const int64_t** shape, uint32_t* dimensions, uint64_t* size,
                                          uint32_t* buffers);
TRITON_CALL TRITONBACKEND_InputBuffer(TRITONBACKEND_Input* input, uint32_t index, const void** buffer, uint64_t* size,
                                      TRITONSERVER_MemoryType* memory, int64_t* memory_id);

// Response, and the state of a sequence.
TRITON_CALL TRITONBACKEND_ResponseNew(TRITONBACKEND_Response** response, TRITONBACKEND_Request* request);
TRITON_CALL TRITONBACKEND_ResponseSend(TRITONBACKEND_Response* response, uint32_t flags, TRITONSERVER_Error* error);
TRITON_CALL TRITONBACKEND_ResponseSetStringParameter(TRITONBACKEND_Response* response, const char* name,
                                                     const char* value);
TRITON_CALL TRITONBACKEND_ResponseSetIntParameter(TRITONBACKEND_Response* response, const char* name, int64_t value);
TRITON_CALL TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response* response, TRITONBACKEND_Output** output,
                                         const char* name, TRITONSERVER_DataType type, const int64_t* shape,
                                         uint32_t dimensions);
TRITON_CALL TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output* output, void** buffer, uint64_t size,
                                       TRITONSERVER_MemoryType* memory, int64_t* memory_id);
TRITON_CALL TRITONBACKEND_StateNew(TRITONBACKEND_State** state, TRITONBACKEND_Request* request, const char* name,
                                   TRITONSERVER_DataType type, const int64_t* shape, uint32_t dimensions);
TRITON_CALL TRITONBACKEND_StateBuffer(TRITONBACKEND_State* state, void** buffer, uint64_t size,
                                      TRITONSERVER_MemoryType* memory, int64_t* memory_id);
TRITON_CALL TRITONBACKEND_StateUpdate(TRITONBACKEND_State* state);

// What a backend gives to Triton.
#define TRITON_EXPORT __attribute__((visibility("default")))
TRITON_EXPORT TRITON_CALL TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend);
TRITON_EXPORT TRITON_CALL TRITONBACKEND_Finalize(TRITONBACKEND_Backend* backend);
TRITON_EXPORT TRITON_CALL TRITONBACKEND_GetBackendAttribute(TRITONBACKEND_Backend* backend,
                                                            TRITONBACKEND_BackendAttribute* attributes);
TRITON_EXPORT TRITON_CALL TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model);
TRITON_EXPORT TRITON_CALL TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model);
TRITON_EXPORT TRITON_CALL TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance);
TRITON_EXPORT TRITON_CALL TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance);
TRITON_EXPORT TRITON_CALL TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                             TRITONBACKEND_Request** requests, uint32_t count);
}
