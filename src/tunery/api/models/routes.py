from tunery.api.access import ModelsReader, ModelsWriter
from tunery.api.context import ContextDep
from tunery.api.models import service
from tunery.api.models.schemas import DeletedModel, Model, ModelList
from tunery.api.routing import Router

router = Router(prefix="/v1/models", tags=["Models"])


@router.get("")
def list_models(caller: ModelsReader, context: ContextDep) -> ModelList:
    return ModelList(data=service.list_models(context, caller))


@router.get("/{model:path}")
def retrieve_model(model: str, caller: ModelsReader, context: ContextDep) -> Model:
    return service.get_model(context, caller, model)


@router.delete("/{model:path}")
def delete_model(model: str, caller: ModelsWriter, context: ContextDep) -> DeletedModel:
    service.delete_model(context, caller, model)
    return DeletedModel(id=model)
