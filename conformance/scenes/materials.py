"""Materials and procedural textures"""

import bpy
import kit
from declarations import scene


@scene()
def procedural_textures():
    """Each procedural texture."""
    kit.begin(size=64)
    kinds = ["Noise", "Voronoi", "Wave", "Magic", "Brick", "Gradient", "WhiteNoise", "Checker", "Sky"]
    places, size = kit.cells(len(kinds), 3)
    for kind, at in zip(kinds, places, strict=True):
        output = 1 if kind in ("Noise", "Voronoi", "WhiteNoise") else 0
        kit.plane(kit.textured(f"ShaderNodeTex{kind}", output=output), at=at, size=size)


@scene()
def principled():
    """The principled shader: metal, glass, skin, coat, alpha."""
    kit.begin(size=64)
    kit.sun()
    kit.plane(kit.glow(kit.BLUE, name="Back"), at=(0, 0, -1))
    kinds = [
        {"Metallic": 1.0, "Roughness": 0.2},
        {"Transmission Weight": 1.0, "IOR": 1.3},
        {"Subsurface Weight": 1.0},
        {"Coat Weight": 1.0, "Sheen Weight": 0.5},
        {"Alpha": 0.4},
        {"Emission Strength": 0.5, "Anisotropic": 0.5},
    ]
    places, size = kit.cells(len(kinds), 3)
    for inputs, at in zip(kinds, places, strict=True):
        material = kit.principled((0.8, 0.5, 0.3))
        shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
        for name, value in inputs.items():
            shader.inputs[name].default_value = value
        kit.cube(material, size=size * 0.6, at=at)


@scene()
def volumes():
    """Volumes within cubes: scattering, absorbing, shining."""
    kit.begin()
    kit.sun(5)
    kit.plane(kit.glow(), at=(0, 0, -1))
    places, size = kit.cells(3, 2)
    for kind, at in zip(("VolumeScatter", "VolumeAbsorption", "VolumePrincipled"), places, strict=True):
        material, nodes, links = kit.bare_material("Fog")
        node = nodes.new(f"ShaderNode{kind}")
        node.inputs["Density"].default_value = 3
        links.new(node.outputs[0], nodes["Material Output"].inputs["Volume"])
        kit.cube(material, size=size * 0.6, at=at)


@scene()
def attributes_and_bevel():
    """Colour attributes of the mesh, and the bevel node."""
    kit.begin()
    kit.sun()
    material, nodes, links = kit.bare_material("Painted")
    item = kit.plane(material, cuts=2)
    layer = item.data.color_attributes.new("Paint", "FLOAT_COLOR", "POINT")
    for number, value in enumerate(layer.data):
        value.color = (number / 9, 1 - number / 9, 0.5, 1)
    colour, shine = nodes.new("ShaderNodeVertexColor"), nodes.new("ShaderNodeEmission")
    colour.layer_name = "Paint"
    links.new(colour.outputs[0], shine.inputs["Color"])
    links.new(shine.outputs[0], nodes["Material Output"].inputs["Surface"])


@scene()
def displacement():
    """True displacement by a texture."""
    kit.begin()
    kit.sun()
    material = kit.principled()
    material.displacement_method = "BOTH"
    nodes, links = material.node_tree.nodes, material.node_tree.links
    noise, push = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeDisplacement")
    links.new(noise.outputs[0], push.inputs["Height"])
    output = next(node for node in nodes if node.type == "OUTPUT_MATERIAL")
    links.new(push.outputs[0], output.inputs["Displacement"])
    kit.plane(material, cuts=12)


@scene(made_by="4.2")
def internal_osl():
    """An OSL script that lies in the file as text. (Later wheels cannot read a script's sockets.)"""
    found = kit.begin()
    found.cycles.shading_system = True
    material, nodes, links = kit.bare_material("Script")
    text = bpy.data.texts.new("stripes.osl")
    text.write("shader stripes(output color Result = 0)\n{\n    Result = color(0, step(0, P[0]), 0.5);\n}\n")
    script, shine = nodes.new("ShaderNodeScript"), nodes.new("ShaderNodeEmission")
    script.script = text
    links.new(script.outputs[0], shine.inputs["Color"])
    links.new(shine.outputs[0], nodes["Material Output"].inputs["Surface"])
    kit.plane(material)
