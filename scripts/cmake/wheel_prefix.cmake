# Passed as CMAKE_PROJECT_INCLUDE when ROS 2 comes from Python wheels.
#
# The wheels export include directories of the machine that built them.  CMake refuses imported targets with include
# directories that do not exist, so those entries are dropped once the whole project has been read.
function(densefit_drop_missing_includes)
  get_property(targets DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(dirs ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT dirs)
      continue()
    endif()
    set(kept "")
    foreach(dir IN LISTS dirs)
      if(dir MATCHES "\\$<" OR IS_DIRECTORY "${dir}")
        list(APPEND kept "${dir}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

if(NOT DENSEFIT_WHEEL_PREFIX_DEFERRED)
  set(DENSEFIT_WHEEL_PREFIX_DEFERRED TRUE)
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL densefit_drop_missing_includes)
endif()
