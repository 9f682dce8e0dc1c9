from tunery.api.auth import ModelsReader, ModelsWriter
from tunery.api.models import service
from tunery.api.models.schemas import DeletedModel, Model, ModelList
from tunery.api.routing import Router
from tunery.api.services import ServicesDep

router = Router(prefix="/v1/models", tags=["Models"])


@router.get("")
def list_models(caller: ModelsReader, services: ServicesDep) -> ModelList:
    return ModelList(data=service.list_models(services, caller))


@router.get("/{model:path}")
def retrieve_model(model: str, caller: ModelsReader, services: ServicesDep) -> Model:
    return service.get_model(services, caller, model)


@router.delete("/{model:path}")
def delete_model(model: str, caller: ModelsWriter, services: ServicesDep) -> DeletedModel:
    service.delete_model(services, caller, model)
    return DeletedModel(id=model)
