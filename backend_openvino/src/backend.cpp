// What Triton looks up in this library: models and instances come and go, requests are executed.
//
// Compiling happens once an instance, so that instances share nothing; reading and verifying once a
// model. `release` and `manifest_digest` in config.pbtxt say what has to be found in the slot.

#include <chrono>
#include <map>
#include <mutex>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include "instance.h"
#include "triton_calls.h"

namespace {

struct Backend {
  ov::Core core;
  Spares spares;  // of the core's graphs
  std::mutex mutex;
  std::map<std::string, Model*> loaded;  // by name, slot and graphs; guarded by mutex

  // A load of what is loaded is asked for where answers are doubted: nothing that was compiled before is used.
  void add(Model& model) {
    const std::lock_guard<std::mutex> lock(mutex);
    Model*& known = loaded[label(model)];
    if (known) {
      known->doubted = true;
      spares.forget(model.release->digest);
    }
    known = &model;
  }

  void remove(Model& model) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto known = loaded.find(label(model));
    if (known != loaded.end() && known->second == &model) loaded.erase(known);
  }

 private:
  static std::string label(const Model& model) { return model.name + "/" + model.slot + " " + model.graphs(); }
};

template <typename Object, typename Handle>
Object& state_of(Handle* handle, TRITONSERVER_Error* (*get)(Handle*, void**)) {
  void* state = nullptr;
  check(get(handle, &state));
  if (!state) throw Refused("there is no state");
  return *static_cast<Object*>(state);
}

struct Message {
  TRITONSERVER_Message* handle = nullptr;
  ~Message() {
    if (handle) succeeded(TRITONSERVER_MessageDelete(handle));
  }
};

Json config_of(TRITONBACKEND_Model* handle) {
  Message message;
  check(TRITONBACKEND_ModelConfig(handle, 1, &message.handle));
  const char* text;
  size_t size;
  check(TRITONSERVER_MessageSerializeToJson(message.handle, &text, &size));
  return parse_json({text, size});
}

// Lets Triton have what config.pbtxt left out, where it asks for that.
void complete(TRITONBACKEND_Model* handle, Json& config, const std::string& folder, const std::string& slot) {
  bool wanted = false;
  check(TRITONBACKEND_ModelAutoCompleteConfig(handle, &wanted));
  if (!wanted || !complete(config, folder, slot)) return;
  const std::string text = to_text(config);
  Message message;
  check(TRITONSERVER_MessageNewFromSerializedJson(&message.handle, text.data(), text.size()));
  check(TRITONBACKEND_ModelSetConfig(handle, 1, message.handle));
  config = config_of(handle);
}

void initialize(TRITONBACKEND_Model* handle) {
  const auto started = std::chrono::steady_clock::now();
  TRITONBACKEND_Backend* backend;
  check(TRITONBACKEND_ModelBackend(handle, &backend));
  const char *name, *folder;
  uint64_t version;
  TRITONBACKEND_ArtifactType type;
  check(TRITONBACKEND_ModelName(handle, &name));
  check(TRITONBACKEND_ModelVersion(handle, &version));
  check(TRITONBACKEND_ModelRepository(handle, &type, &folder));
  if (type != TRITONBACKEND_ARTIFACT_FILESYSTEM) throw Refused("the model's files are not in a folder");
  Json config = config_of(handle);
  const std::string slot = std::to_string(version);
  complete(handle, config, folder, slot);
  auto& state = state_of<Backend>(backend, TRITONBACKEND_BackendState);
  auto model = load_model(state.core, config, name, folder, slot);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;
  const std::string ms = std::to_string(took.count());
  log(TRITONSERVER_LOG_INFO, "loaded " + model->words(", \"manifest_digest\": " + json_quoted(model->release->digest) +
                                                      ", \"load_ms\": " + ms.substr(0, ms.find('.') + 2)));
  check(TRITONBACKEND_ModelSetState(handle, model.get()));
  state.add(*model.release());
}

}  // namespace

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  return guarded([&] {
    uint32_t major, minor;
    check(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major != kApiMajor || minor < kApiMinor)
      throw Refused("this Triton has backend API " + std::to_string(major) + "." + std::to_string(minor) +
                    ", this backend needs " + std::to_string(kApiMajor) + "." + std::to_string(kApiMinor) +
                    " or a later minor version");
    auto state = std::make_unique<Backend>();
    state->core.get_property("CPU", ov::supported_properties);  // loads the plugin now, not at the first load
    log(TRITONSERVER_LOG_INFO, std::string("native openvino backend, OpenVINO ") + ov::get_openvino_version().buildNumber);
    check(TRITONBACKEND_BackendSetState(backend, state.release()));
  });
}

TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend* backend) {
  return guarded([&] {
    delete &state_of<Backend>(backend, TRITONBACKEND_BackendState);
#ifdef __SANITIZE_ADDRESS__
    // At the exit this library is gone, and so are its names in a report.
    log(TRITONSERVER_LOG_INFO, __lsan_do_recoverable_leak_check() ? "leaks were found" : "no leaks were found");
#endif
  });
}

TRITONSERVER_Error* TRITONBACKEND_GetBackendAttribute(TRITONBACKEND_Backend*,
                                                      TRITONBACKEND_BackendAttribute* attributes) {
  return guarded([&] {
    check(TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(attributes, TRITONSERVER_INSTANCEGROUPKIND_CPU, 1,
                                                                  nullptr, 0));
    check(TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(attributes, true));
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return guarded([&] { initialize(model); });
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    auto& state = state_of<Model>(model, TRITONBACKEND_ModelState);
    log(TRITONSERVER_LOG_INFO, "unloaded " + state.words(""));
    TRITONBACKEND_Backend* backend;
    check(TRITONBACKEND_ModelBackend(model, &backend));
    state_of<Backend>(backend, TRITONBACKEND_BackendState).remove(state);
    delete &state;
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    TRITONBACKEND_Model* model;
    TRITONBACKEND_Backend* backend;
    TRITONSERVER_InstanceGroupKind kind;
    check(TRITONBACKEND_ModelInstanceModel(instance, &model));
    check(TRITONBACKEND_ModelBackend(model, &backend));
    check(TRITONBACKEND_ModelInstanceKind(instance, &kind));
    if (kind == TRITONSERVER_INSTANCEGROUPKIND_GPU) throw Refused("this backend serves on the CPU only: use KIND_CPU");
    auto& state = state_of<Backend>(backend, TRITONBACKEND_BackendState);
    const auto& loaded = state_of<Model>(model, TRITONBACKEND_ModelState);
    auto made = std::make_unique<Instance>(state.core, state.spares, loaded, instance);
    check(TRITONBACKEND_ModelInstanceSetState(instance, made.release()));
  });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] { delete &state_of<Instance>(instance, TRITONBACKEND_ModelInstanceState); });
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                       TRITONBACKEND_Request** requests, uint32_t count) {
  return guarded([&] { state_of<Instance>(instance, TRITONBACKEND_ModelInstanceState).execute(requests, count); });
}
